/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * What S3 answers in XML, element by element: enough for lists and errors, and no more. It takes
 * any bytes; depth and lengths are bounded, nothing recurses or allocates, and what XML allows
 * beyond (document types, entities of one's own, CDATA) is refused.
 */

#include <stddef.h>

enum { S3_XML_NAME_BYTES = 64, S3_XML_TEXT_BYTES = 4096, S3_XML_DEPTH_MAX = 16 };

enum s3_xml_event {
	S3_XML_OPEN,  /* an element began: name */
	S3_XML_CLOSE, /* it ended: name, and the text since the last tag */
	S3_XML_END,   /* the document is over, and was whole */
	S3_XML_BAD,   /* it is broken, or beyond a limit; stays so */
};

struct s3_xml {
	const char *at;
	const char *end;
	int depth;
	int bad;
	char name[S3_XML_NAME_BYTES]; /* without a namespace */
	char text[S3_XML_TEXT_BYTES];
	size_t text_len;
	int self_closed;
};

/* The document must live as long. */
void s3_xml_init(struct s3_xml *xml, const char *document, size_t len);

enum s3_xml_event s3_xml_next(struct s3_xml *xml);

/* The text of the first element of that name, or "" in a document that has none or is broken. */
void s3_xml_find(const char *document, size_t len, const char *name, char *ret_text, size_t size);
