/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The part of `status` that is about drills, from the answers to `show replicas` and `show drills`;
 * the latter may be NULL. Only replicas that there are now count.
 */

#include "client/litefunnel.h"

#include <stdbool.h>
#include <stddef.h>

/*
 * False: the last drill of a replica that told anything is a fail, or there have been drills for 30
 * days and none passed; ret_reason says which. A database without any drill yet is well.
 */
bool status_drills_well(
	const lf_reply *replicas, const lf_reply *drills, char *ret_reason, size_t bytes);

/* The last drill, and that there is no verified backup. Nothing without a replica. */
void status_drills_print(const lf_reply *replicas, const lf_reply *drills);
void status_drills_json(const lf_reply *replicas, const lf_reply *drills);
