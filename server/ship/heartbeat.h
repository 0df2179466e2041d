/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * A request to somebody who raises an alarm when it does not come: GET of an http or https URL, no
 * redirects, the certificate verified, no answer kept. 0, or -EIO with a sentence that does not hold
 * the URL, whose path is often the secret.
 */

enum { HEARTBEAT_ERROR_BYTES = 200 };

int heartbeat(const char *url, char ret_error[HEARTBEAT_ERROR_BYTES]);
