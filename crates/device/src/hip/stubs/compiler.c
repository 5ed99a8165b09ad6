// hipRTC's own part: names.h and NVRTC's stub come before it, with the compiling under another name. Writes the options it was
// given to the file that RP_STUB_LOG names.
#include <stdio.h>
int hiprtcCompileProgram(void *p, int n, const char **options) {
  FILE *log = getenv("RP_STUB_LOG") ? fopen(getenv("RP_STUB_LOG"), "a") : NULL;
  for (int i = 0; log && i < n; i++) fprintf(log, "%s%s", options[i], i + 1 < n ? " " : "\n");
  if (log) fclose(log);
  return compile(p, n, options);
}
