/* SPDX-License-Identifier: MIT */

/* The links of a list: order, removal of any element, and moving whole lists. */

#include "server/base/list.h"
#include "tests/unit/cmocka_all.h"

#include <stdio.h>
#include <string.h>

struct item {
	char name;
	struct list node;
};

/* The names forwards, then backwards: both directions must agree. */
static const char *names(const struct list *head)
{
	static char text[64];
	size_t len = 0;
	for (const struct list *at = head->next; at != head; at = at->next) {
		text[len++] = container_of(at, const struct item, node)->name;
	}
	text[len++] = '/';
	for (const struct list *at = head->prev; at != head; at = at->prev) {
		text[len++] = container_of(at, const struct item, node)->name;
	}
	text[len] = 0;
	return text;
}

static void test_elements_stand_where_they_were_put(void **state)
{
	struct list head;
	struct item a = {'a', {0}};
	struct item b = {'b', {0}};
	struct item c = {'c', {0}};
	(void)state;
	list_init(&head);
	assert_true(list_empty(&head));
	assert_string_equal(names(&head), "/");
	list_push_back(&head, &b.node);
	assert_false(list_empty(&head));
	list_push_front(&head, &a.node);
	list_push_back(&head, &c.node);
	assert_string_equal(names(&head), "abc/cba");
	list_remove(&b.node);
	assert_string_equal(names(&head), "ac/ca");
	list_remove(&b.node); /* twice does no harm */
	assert_true(list_empty(&b.node));
	list_insert_before(&c.node, &b.node);
	assert_string_equal(names(&head), "abc/cba");
	list_remove(&a.node);
	list_remove(&c.node);
	list_remove(&b.node);
	assert_true(list_empty(&head));
}

static void test_the_current_element_may_go_in_a_safe_loop(void **state)
{
	struct list head;
	struct item items[5];
	char seen[6] = "";
	(void)state;
	list_init(&head);
	for (size_t i = 0; i < 5; i++) {
		items[i].name = (char)('a' + i);
		list_push_back(&head, &items[i].node);
	}
	list_for_each_safe(node, &head) {
		struct item *item = container_of(node, struct item, node);
		seen[strlen(seen)] = item->name;
		if (item->name != 'c') {
			list_remove(node);
			memset(item, 0xa5, sizeof(*item));
		}
	}
	assert_string_equal(seen, "abcde");
	assert_string_equal(names(&head), "c/c");
	size_t count = 0;
	list_for_each(node, &head) {
		count++;
	}
	assert_int_equal(count, 1);
}

/* Every pair of lengths, to the end and to the front. */
static void test_whole_lists_move(void **state)
{
	(void)state;
	for (size_t left = 0; left <= 3; left++) {
		for (size_t right = 0; right <= 3; right++) {
			for (int front = 0; front < 2; front++) {
				struct list to;
				struct list from;
				struct item items[6];
				char moved[7] = "";
				char kept[7] = "";
				char expected[16];
				list_init(&to);
				list_init(&from);
				for (size_t i = 0; i < left + right; i++) {
					bool here = i < left;
					items[i].name = (char)('a' + i);
					list_push_back(here ? &to : &from, &items[i].node);
					char *text = here ? kept : moved;
					text[strlen(text)] = items[i].name;
				}
				if (front) {
					list_prepend_all(&to, &from);
				} else {
					list_append_all(&to, &from);
				}
				(void)snprintf(expected, sizeof(expected), "%s%s/",
					front ? moved : kept, front ? kept : moved);
				assert_true(list_empty(&from));
				assert_memory_equal(names(&to), expected, strlen(expected));
				assert_int_equal(strlen(names(&to)), 2 * (left + right) + 1);
			}
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_elements_stand_where_they_were_put),
		cmocka_unit_test(test_the_current_element_may_go_in_a_safe_loop),
		cmocka_unit_test(test_whole_lists_move),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
