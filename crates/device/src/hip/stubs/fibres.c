// A HIP runtime that runs our kernels for AMD's chips: what its hipRTC is asked to compile, g++ does, over kernels/fibres and for the chip
// that the options name, and a launch runs it at once. Pointers, numbers, grids and macros are then what our host code hands over, and
// a wrong one makes a wrong output. Built twice: with -DCOMPILER a hipRTC of its own, else behind names.h, the CUDA driver's stub and
// runtime.c, whose loading and launching it takes the place of.
//
// -DSOURCES="…": the folder kernels/. RP_STUB_FOLDER: where to build. RP_STUB_LOG: a file for each launch's name, grid and block.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef COMPILER

// The "code object": the options, each behind a space; a new line; the source.
struct program { char *source, *code; };
int hiprtcVersion(int *major, int *minor) { *major = 9, *minor = 0; return 0; }
int hiprtcCreateProgram(struct program **p, const char *source, const char *name, int n, const char **headers, const char **names) {
  *p = calloc(1, sizeof **p);
  (*p)->source = strdup(source);
  return 0;
}
int hiprtcDestroyProgram(struct program **p) { free((*p)->source); free((*p)->code); free(*p); return 0; }
int hiprtcCompileProgram(struct program *p, int n, const char **options) {
  size_t bytes = strlen(p->source) + 8;
  for (int i = 0; i < n; i++) bytes += strlen(options[i]) + 1;
  p->code = strcpy(malloc(bytes), "\177ELF");
  for (int i = 0; i < n; i++) strcat(strcat(p->code, " "), options[i]);
  strcat(strcat(p->code, "\n"), p->source);
  return 0;
}
int hiprtcGetCodeSize(struct program *p, size_t *n) { *n = strlen(p->code) + 1; return 0; }
int hiprtcGetCode(struct program *p, char *out) { strcpy(out, p->code); return 0; }
int hiprtcGetProgramLogSize(struct program *p, size_t *n) { *n = 1; return 0; }
int hiprtcGetProgramLog(struct program *p, char *out) { *out = 0; return 0; }

#else

#include <dlfcn.h>

struct function { char name[64]; void (*run)(void **, unsigned, unsigned, unsigned, unsigned); };

int hipModuleLoadDataEx(char **m, const char *code, unsigned n, void *o, void *v) {
  if (memcmp(code, "\177ELF", 4)) return 200;
  *m = strdup(code);
  return 0;
}
int hipModuleUnload(char *m) { free(m); return 0; }
// The options' macros, and the chip as the compiler for it would name it.
static void options(char *to, const char *code) {
  char *all = strndup(code + 4, strcspn(code + 4, "\n")), *rest = all, *word;
  while ((word = strsep(&rest, " "))) {
    if (!strncmp(word, "-D", 2)) strcat(strcat(to, " "), word);
    if (!strncmp(word, "--offload-arch=", 15)) sprintf(to + strlen(to), " -D__%.*s__", (int)strcspn(word + 15, ":"), word + 15);
  }
  free(all);
}
int hipModuleGetFunction(struct function **f, const char *code, const char *name) {
  static int made;
  char path[512], command[4096];
  snprintf(path, sizeof path, "%s/kernel%d", getenv("RP_STUB_FOLDER"), made++);
  snprintf(command, sizeof command, "g++ -shared -fPIC -fno-gnu-unique -O1 -std=c++17 -w -Wno-psabi -I%s/fibres -I%s/attention -x c++ %s -o %s.so", SOURCES, SOURCES, path, path);
  options(command, code);
  FILE *file = fopen(path, "w");
  if (!file) return 1;
  const char *source = strchr(code, '\n');
  // A kernel that needs no matrix unit may name things as amd.h does.
  fprintf(file, strstr(source, "amd.h\"") ? "#include \"amd.h\"\n" : "#define RP_LANES 64\n#include \"cuda.h\"\n");
  fprintf(file, "%s\n#include <utility>\n"
    "template <class... A, size_t... I> static void call(void (*f)(A...), void **p, std::index_sequence<I...>) { f(*(A *)p[I]...); }\n"
    "template <class... A> static void call(void (*f)(A...), void **p) { call(f, p, std::index_sequence_for<A...>{}); }\n"
    "extern \"C\" void run(void **p, unsigned x, unsigned y, unsigned z, unsigned block) {\n"
    "  fibres::launch(dim3(x, y, z), dim3(block), [&] { call(%s, p); });\n}\n", source, name);
  fclose(file);
  if (system(command)) return 1;
  strcat(path, ".so");
  void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!library) return fprintf(stderr, "%s\n", dlerror()), 1;
  *f = calloc(1, sizeof **f);
  snprintf((*f)->name, sizeof (*f)->name, "%s", name);
  *(void **)&(*f)->run = dlsym(library, "run");
  return (*f)->run ? 0 : 1;
}
int hipFuncGetAttribute(int *v, int a, struct function *f) { *v = a == 0 ? 1024 : a == 4 ? 32 : 0; return 0; }
int hipModuleLaunchKernel(struct function *f, unsigned x, unsigned y, unsigned z, unsigned bx, unsigned by, unsigned bz, unsigned shared, void *s, void **p, void **e) {
  FILE *log = getenv("RP_STUB_LOG") ? fopen(getenv("RP_STUB_LOG"), "a") : NULL;
  if (log) fprintf(log, "%s %ux%ux%u by %u\n", f->name, x, y, z, bx), fclose(log);
  f->run(p, x, y, z, bx);
  return 0;
}

#endif
