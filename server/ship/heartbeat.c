/* SPDX-License-Identifier: MIT */

/* One GET with a time limit. */

#include "server/ship/heartbeat.h"

#include <curl/curl.h>
#include <errno.h>
#include <stdio.h>

enum { TIMEOUT_S = 10 };

static size_t drop(char *bytes, size_t size, size_t count, void *ctx)
{
	(void)bytes;
	(void)ctx;
	return size * count;
}

int heartbeat(const char *url, char ret_error[HEARTBEAT_ERROR_BYTES])
{
	long status = 0;
	CURL *curl = curl_easy_init();
	CURLcode rc = curl == NULL ? CURLE_OUT_OF_MEMORY : CURLE_OK;
	if (curl != NULL) {
		curl_easy_setopt(curl, CURLOPT_URL, url);
		curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
		curl_easy_setopt(curl, CURLOPT_FOLLOWLOCATION, 0L);
		curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
		curl_easy_setopt(curl, CURLOPT_TIMEOUT, (long)TIMEOUT_S);
		curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, drop);
		rc = curl_easy_perform(curl);
		curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
		curl_easy_cleanup(curl);
	}
	if (rc == CURLE_OK && status >= 200 && status < 300) {
		return 0;
	}
	if (rc != CURLE_OK) {
		snprintf(ret_error, HEARTBEAT_ERROR_BYTES, "%s", curl_easy_strerror(rc));
	} else {
		snprintf(ret_error, HEARTBEAT_ERROR_BYTES, "it answers %ld", status);
	}
	return -EIO;
}
