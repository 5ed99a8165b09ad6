// An NVRTC for tests: the "machine code" is a line of the definitions, by which a driver's stub finds a kernel's form, and the source
// itself. -DOLD: one that knows no architecture by its letter (sm_90a).
#include <stdlib.h>
#include <string.h>

int nvrtcVersion(int *a, int *b) { *a = MAJOR, *b = 0; return 0; }
int nvrtcGetNumSupportedArchs(int *n) { *n = 4; return 0; }
int nvrtcGetSupportedArchs(int *v) { v[0] = 80, v[1] = 90, v[2] = 75, v[3] = 100; return 0; }
int nvrtcCreateProgram(void **p, const char *source, const char *name, int n, const char **headers, const char **names) {
  *p = malloc(strlen(source) + 4096);
  strcpy(*p, source);
  return 0;
}
int nvrtcDestroyProgram(void **p) { free(*p); *p = NULL; return 0; }
int nvrtcCompileProgram(void *p, int n, const char **options) {
#ifdef OLD
  for (int i = 0; i < n; i++) if (strstr(options[i], "90a")) return 5;
#endif
  char line[2048] = "\177ELF";
  for (int i = 0; i < n; i++) if (!strncmp(options[i], "-D", 2)) strcat(strcat(line, " "), options[i] + 2);
  strcat(line, line[4] ? "\n" : " \n");
  memmove((char *)p + strlen(line), p, strlen(p) + 1);
  memcpy(p, line, strlen(line));
  return strstr(p, "seeded mistake") ? 6 : 0;
}
int nvrtcGetCUBINSize(void *p, size_t *n) { *n = strlen(p); return 0; }
int nvrtcGetCUBIN(void *p, char *out) { memcpy(out, p, strlen(p)); return 0; }
int nvrtcGetProgramLogSize(void *p, size_t *n) { *n = 15; return 0; }
int nvrtcGetProgramLog(void *p, char *out) { memcpy(out, "line 1: mistake", 15); return 0; }
