/* SPDX-License-Identifier: MIT */

/* Packs the cells of a table. It knows nothing of what they mean. */

#include "server/admin/table.h"

#include <fnmatch.h>

bool table_wants(const struct table *table, const char *name)
{
	return table->like == NULL || fnmatch(table->like, name, 0) == 0;
}

void table_row(struct table *table, unsigned columns)
{
	msgpack_pack_array(&table->packer, columns);
	table->rows++;
}

void table_text(struct table *table, const char *value)
{
	if (value != NULL) {
		pack_cstr(&table->packer, value);
	} else {
		msgpack_pack_nil(&table->packer);
	}
}

void table_number(struct table *table, uint64_t value)
{
	msgpack_pack_uint64(&table->packer, value);
}
