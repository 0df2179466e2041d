#include "server/cli/cli.h"
int cli_shutdown(int argc, char **argv) { (void)argc; (void)argv; return 1; }
