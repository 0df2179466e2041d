#include "server/cli/cli.h"
int cli_version(int argc, char **argv) { (void)argc; (void)argv; return 1; }
