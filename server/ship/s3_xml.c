/* SPDX-License-Identifier: MIT */

/*
 * A scanner of XML: tags and the text between them. It does not check that closing names match,
 * only that they balance: a server that gets that wrong is found by what is missing.
 */

#include "server/ship/s3_xml.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void s3_xml_init(struct s3_xml *xml, const char *document, size_t len)
{
	*xml = (struct s3_xml){.at = document, .end = document + len};
}

static enum s3_xml_event bad(struct s3_xml *xml)
{
	xml->bad = 1;
	return S3_XML_BAD;
}

static bool add_text(struct s3_xml *xml, char c)
{
	if (xml->text_len + 1 >= sizeof xml->text) {
		return false;
	}
	xml->text[xml->text_len++] = c;
	xml->text[xml->text_len] = '\0';
	return true;
}

/* &#65; and &#x41;, as UTF-8. */
static bool add_number(struct s3_xml *xml, const char *digits)
{
	char *rest;
	bool hex = digits[0] == 'x';
	unsigned long code = strtoul(digits + hex, &rest, hex ? 16 : 10);
	if (*rest != '\0' || rest == digits + hex || code == 0 || code > 0x10ffff) {
		return false;
	}
	if (code < 0x80) {
		return add_text(xml, (char)code);
	}
	int more = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
	static const uint8_t lead[] = {0, 0xc0, 0xe0, 0xf0};
	bool added = add_text(xml, (char)(lead[more] | code >> (6 * more)));
	for (int i = more - 1; i >= 0; i--) {
		added = added && add_text(xml, (char)(0x80 | (code >> (6 * i) & 0x3f)));
	}
	return added;
}

/* xml->at stands on '&'. */
static bool take_entity(struct s3_xml *xml)
{
	static const struct {
		const char *name;
		char c;
	} entities[] = {{"lt", '<'}, {"gt", '>'}, {"amp", '&'}, {"quot", '"'}, {"apos", '\''}};
	char name[12];
	const char *start = xml->at + 1;
	size_t room = (size_t)(xml->end - start);
	const char *end = memchr(start, ';', room < sizeof name ? room : sizeof name);
	if (end == NULL || end == start || (size_t)(end - start) >= sizeof name) {
		return false;
	}
	memcpy(name, start, (size_t)(end - start));
	name[end - start] = '\0';
	xml->at = end + 1;
	if (name[0] == '#') {
		return add_number(xml, name + 1);
	}
	for (size_t i = 0; i < sizeof entities / sizeof entities[0]; i++) {
		if (strcmp(name, entities[i].name) == 0) {
			return add_text(xml, entities[i].c);
		}
	}
	return false;
}

/* Up to the next tag. */
static bool take_text(struct s3_xml *xml)
{
	while (xml->at < xml->end && *xml->at != '<') {
		if (*xml->at == '&') {
			if (!take_entity(xml)) {
				return false;
			}
		} else if (!add_text(xml, *xml->at++)) {
			return false;
		}
	}
	return true;
}

/* Behind the next occurrence of `mark`. */
static bool skip_past(struct s3_xml *xml, const char *mark)
{
	const char *found = memmem(xml->at, (size_t)(xml->end - xml->at), mark, strlen(mark));
	if (found == NULL) {
		return false;
	}
	xml->at = found + strlen(mark);
	return true;
}

/* The name of a tag, without its namespace. */
static bool take_name(struct s3_xml *xml, const char *start, const char *end)
{
	const char *stop = start;
	while (stop < end && strchr(" \t\r\n/", *stop) == NULL) {
		stop++;
	}
	const char *colon = memchr(start, ':', (size_t)(stop - start));
	start = colon != NULL ? colon + 1 : start;
	size_t len = (size_t)(stop - start);
	if (len == 0 || len >= sizeof xml->name) {
		return false;
	}
	memcpy(xml->name, start, len);
	xml->name[len] = '\0';
	return true;
}

static void drop_text(struct s3_xml *xml)
{
	xml->text_len = 0;
	xml->text[0] = '\0';
}

/* xml->at stands behind '<'. */
static enum s3_xml_event take_tag(struct s3_xml *xml)
{
	const char *close = memchr(xml->at, '>', (size_t)(xml->end - xml->at));
	if (close == NULL) {
		return bad(xml);
	}
	bool closing = *xml->at == '/';
	const char *start = xml->at + closing;
	xml->at = close + 1;
	if (!take_name(xml, start, close)) {
		return bad(xml);
	}
	if (closing) {
		return xml->depth-- == 0 ? bad(xml) : S3_XML_CLOSE;
	}
	if (xml->depth == S3_XML_DEPTH_MAX) {
		return bad(xml);
	}
	xml->depth++;
	xml->self_closed = close[-1] == '/';
	return S3_XML_OPEN;
}

static bool starts_with(const struct s3_xml *xml, const char *text)
{
	size_t len = strlen(text);
	return (size_t)(xml->end - xml->at) >= len && memcmp(xml->at, text, len) == 0;
}

static enum s3_xml_event next(struct s3_xml *xml)
{
	for (;;) {
		if (!take_text(xml)) {
			return bad(xml);
		}
		if (xml->at == xml->end) {
			return xml->depth == 0 ? S3_XML_END : bad(xml);
		}
		if (starts_with(xml, "<?")) {
			if (!skip_past(xml, "?>")) {
				return bad(xml);
			}
		} else if (starts_with(xml, "<!--")) {
			if (!skip_past(xml, "-->")) {
				return bad(xml);
			}
		} else if (starts_with(xml, "<!")) {
			return bad(xml);
		} else {
			xml->at++;
			return take_tag(xml);
		}
	}
}

enum s3_xml_event s3_xml_next(struct s3_xml *xml)
{
	if (xml->bad) {
		return S3_XML_BAD;
	}
	if (xml->self_closed) {
		xml->self_closed = 0;
		xml->depth--;
		return S3_XML_CLOSE;
	}
	drop_text(xml);
	return next(xml);
}

void s3_xml_find(const char *document, size_t len, const char *name, char *ret_text, size_t size)
{
	struct s3_xml xml;
	ret_text[0] = '\0';
	s3_xml_init(&xml, document, len);
	for (;;) {
		enum s3_xml_event event = s3_xml_next(&xml);
		if (event == S3_XML_END || event == S3_XML_BAD) {
			return;
		}
		if (event == S3_XML_CLOSE && strcmp(xml.name, name) == 0) {
			snprintf(ret_text, size, "%s", xml.text);
			return;
		}
	}
}
