/* SPDX-License-Identifier: MIT */

/*
 * One GET with a time limit. A certificate is verified as a replica's is (s3_http.c): by the
 * authorities of the system and those of AWS_CA_BUNDLE. What libcurl says about a failure is told
 * only where it cannot hold any of the URL.
 */

#include "server/ship/heartbeat.h"

#include <curl/curl.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

enum { TIMEOUT_S = 10 };

static size_t drop(char *bytes, size_t size, size_t count, void *ctx)
{
	(void)bytes;
	(void)ctx;
	return size * count;
}

static CURLcode get(CURL *curl, const char *url, char *why, long *ret_status)
{
	const char *authorities = getenv("AWS_CA_BUNDLE");
	curl_easy_setopt(curl, CURLOPT_URL, url);
	curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
	curl_easy_setopt(curl, CURLOPT_FOLLOWLOCATION, 0L);
	curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(curl, CURLOPT_TIMEOUT, (long)TIMEOUT_S);
	curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, drop);
	curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, why);
	if (authorities != NULL) {
		curl_easy_setopt(curl, CURLOPT_CAINFO, authorities);
	}
	CURLcode rc = curl_easy_perform(curl);
	curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, ret_status);
	return rc;
}

static void tell(CURLcode rc, const char *why, long status, char *ret_error)
{
	if (rc == CURLE_OK) {
		snprintf(ret_error, HEARTBEAT_ERROR_BYTES, "it answers %ld", status);
	} else if (rc == CURLE_PEER_FAILED_VERIFICATION || rc == CURLE_SSL_CACERT_BADFILE) {
		snprintf(ret_error, HEARTBEAT_ERROR_BYTES,
			"%.120s (cure: AWS_CA_BUNDLE names the file of an authority of one's own)",
			why[0] != '\0' ? why : curl_easy_strerror(rc));
	} else {
		snprintf(ret_error, HEARTBEAT_ERROR_BYTES, "%s", curl_easy_strerror(rc));
	}
}

int heartbeat(const char *url, char ret_error[HEARTBEAT_ERROR_BYTES])
{
	char why[CURL_ERROR_SIZE] = "";
	long status = 0;
	CURL *curl = curl_easy_init();
	CURLcode rc = CURLE_OUT_OF_MEMORY;
	if (curl != NULL) {
		rc = get(curl, url, why, &status);
		curl_easy_cleanup(curl);
	}
	if (rc == CURLE_OK && status >= 200 && status < 300) {
		return 0;
	}
	tell(rc, why, status, ret_error);
	return -EIO;
}
