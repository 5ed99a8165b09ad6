// An NCCL, or an RCCL, of host memory for tests: it writes every call to the file that RP_STUB_LOG names, and does the work for
// real when a group ends, so that results can be checked. It refuses what the library would refuse: ranks that disagree on a
// call, a receive without its send. Ranks of several processes meet in a file of shared memory that the unique id names.
//
// -DVERSION=…; -DALLOC= and -DFREE=: the driver's functions that ncclMemAlloc is made of; -DFNUZ: FP8 as CDNA3 has it; -DOLD: without the calls that came late, all-to-all under RCCL's first name; -DBARE: without all of them;
// -DSWEPT: no CollnetDirect of all-reduce, as old versions say it, Ring in silence for CollnetChain of little but all-reduce, an error where NVLS
// meets Simple, the end of the process where Tree meets LL in a small all-reduce, and none where NVLSTree meets LL128, which is stopped;
// RP_STUB_NET=socket: among processes it says that it has no InfiniBand;
// RP_STUB_NCCL=corrupt: a bit of what the last rank receives is flipped; RP_STUB_NCCL=async: an error found meanwhile; RP_STUB_NCCL=refuse: this
// process's rank joins no others; RP_STUB_NCCL=init, =group: ncclCommInitAll or ncclGroupEnd does not come back.
#include <dlfcn.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

typedef struct { char internal[128]; } id_t128;
enum { USAGE = 5, ARGUMENT = 4, INTERNAL = 3, MOST = 4096 };
enum kind { ALL_REDUCE, REDUCE, REDUCE_SCATTER, ALL_GATHER, BROADCAST, ALL_TO_ALL, GATHER, SCATTER, SEND, RECEIVE };
static const char *names[] = {"AllReduce", "Reduce", "ReduceScatter", "AllGather", "Broadcast", "AlltoAll", "Gather", "Scatter", "Send", "Recv"};
enum { RANKS = 16, PIECES = 64, SHARE = 4 << 20 };  // of processes that meet: so many, calls of a group, bytes that each sends
struct piece { enum kind kind; size_t count, at; int type, op, root; };
struct shared {
  volatile unsigned come;  // ranks that have come to a meeting, since the start
  struct { volatile int pieces; struct piece piece[PIECES]; } said[RANKS];
  struct { volatile int full; struct piece piece; } box[RANKS][RANKS];  // what the first sends to the second, until it is taken
  char sent[RANKS][SHARE];
};
typedef struct comm { int rank, n, live, device; struct shared *shared; unsigned met; } *comm_t;
// Devices of this process: the first waits for the other, as the stub of the driver has it, with which this is linked or beside which it lies.
void rp_stub_wait(int device, int other) __attribute__((weak));
static void follow(struct comm *own, struct comm *other) {
  static void (*wait)(int, int);
  char path[4096];
  if (!wait && !(wait = rp_stub_wait)) {
    snprintf(path, sizeof path, "%s/libcuda.so.1", getenv("RIDGEPOINT_CUDA_PATH") ? getenv("RIDGEPOINT_CUDA_PATH") : "");
    void *driver = dlopen(path, RTLD_NOW | RTLD_NOLOAD);
    if (driver) wait = dlsym(driver, "rp_stub_wait");
  }
  if (wait) wait(own->device, other->device);
}
static struct op { enum kind kind; char *s, *r; size_t count; int type, op, root; comm_t comm; int done; } ops[MOST];
static int depth, pending;

static void say(const char *format, ...) {
  const char *path = getenv("RP_STUB_LOG");
  FILE *file = path ? fopen(path, "a") : NULL;
  if (!file) return;
  va_list list;
  va_start(list, format);
  vfprintf(file, format, list);
  va_end(list);
  fclose(file);
}

static size_t size(int type) { return (const size_t[]){1, 1, 4, 4, 8, 8, 2, 4, 8, 2, 1, 1}[type]; }
static double mini(unsigned x, int e, int m) {
  int bias = (1 << (e - 1)) - 1, field = (x >> m) & ((1 << e) - 1);
#ifdef FNUZ
  bias++;
#endif
  double f = x & ((1 << m) - 1), v = field ? ldexp((1 << m) + f, field - bias - m) : ldexp(f, 1 - bias - m);
  return x >> (e + m) & 1 ? -v : v;
}
static double get(const char *p, size_t i, int type) {
  p += i * size(type);
  if (type == 0) return *(int8_t *)p;
  if (type == 2) return *(int32_t *)p;
  if (type == 6) return *(_Float16 *)p;
  if (type == 7) return *(float *)p;
  if (type == 8) return *(double *)p;
  if (type == 9) { uint32_t w = (uint32_t)*(uint16_t *)p << 16; float f; memcpy(&f, &w, 4); return f; }
  return type == 10 ? mini(*(uint8_t *)p, 4, 3) : mini(*(uint8_t *)p, 5, 2);
}
static void put(char *p, size_t i, int type, double v) {
  p += i * size(type);
  if (type == 0) *(int8_t *)p = (int)v;
  if (type == 2) *(int32_t *)p = (int)v;
  if (type == 6) *(_Float16 *)p = v;
  if (type == 7) *(float *)p = v;
  if (type == 8) *(double *)p = v;
  if (type == 9) { float f = v; uint32_t w; memcpy(&w, &f, 4); *(uint16_t *)p = (w + 0x7fff + (w >> 16 & 1)) >> 16; }
  if (type < 10) return;
  // The nearest of all patterns that are numbers.
  int best = 0, last = type == 10 ? 0x7e : 0x7b;
  for (int x = 0; x < 256; x++) {
    double d = type == 10 ? mini(x, 4, 3) : mini(x, 5, 2), b = type == 10 ? mini(best, 4, 3) : mini(best, 5, 2);
    if ((x & 0x7f) <= last && x != 0x80 && fabs(d - v) < fabs(b - v)) best = x;
  }
  *(uint8_t *)p = best;
}
static double combine(double a, double b, int op) { return op == 1 ? a * b : op == 2 ? fmax(a, b) : op == 3 ? fmin(a, b) : a + b; }

// The call of this kind that rank `rank` made and that was not yet done.
static struct op *of(enum kind kind, int rank, int root) {
  for (int i = 0; i < pending; i++)
    if (!ops[i].done && ops[i].kind == kind && ops[i].comm->rank == rank && (root < 0 || ops[i].root == root)) return &ops[i];
  return NULL;
}

// Elements that a rank sends.
static size_t sends(struct op *o, int n, int rank) {
  int cut = o->kind == REDUCE_SCATTER || o->kind == SCATTER || o->kind == ALL_TO_ALL;
  if ((o->kind == SCATTER || o->kind == BROADCAST) && rank != o->root) return 0;
  return o->count * (cut ? n : 1);
}
// What a rank receives of all that is sent. Everything was copied before anything is written: buffers may be the same.
static void give(struct op *o, int n, char **in, int rank) {
  size_t count = o->count, each = count * size(o->type);
  char *to = o->r;
  int root = rank == o->root;
  if (o->kind == ALL_REDUCE || (o->kind == REDUCE && root) || o->kind == REDUCE_SCATTER)
    for (size_t i = 0; i < count; i++) {
      size_t at = i + (o->kind == REDUCE_SCATTER ? rank * count : 0);
      double v = get(in[0], at, o->type);
      for (int r = 1; r < n; r++) v = combine(v, get(in[r], at, o->type), o->op);
      put(to, i, o->type, o->op == 4 ? (o->type < 6 ? trunc(v / n) : v / n) : v);
    }
  if (o->kind == ALL_GATHER || (o->kind == GATHER && root)) for (int q = 0; q < n; q++) memcpy(to + q * each, in[q], each);
  if (o->kind == BROADCAST) memcpy(to, in[o->root], each);
  if (o->kind == SCATTER) memcpy(to, in[o->root] + rank * each, each);
  if (o->kind == ALL_TO_ALL) for (int q = 0; q < n; q++) memcpy(to + q * each, in[q] + rank * each, each);
  int last = o->kind == REDUCE || o->kind == GATHER ? o->root : n - 1;
  const char *fault = getenv("RP_STUB_NCCL");
  if (fault && !strcmp(fault, "corrupt") && rank == last) to[size(o->type) - 1] ^= size(o->type) == 1 ? 0x10 : 1;
}
static void take(struct op *o, struct op *from) {
  if (from->comm) follow(o->comm, from->comm);
  memmove(o->r, from->s, o->count * size(o->type));
  const char *fault = getenv("RP_STUB_NCCL");
  if (fault && !strcmp(fault, "corrupt") && o->comm->rank == o->comm->n - 1) o->r[size(o->type) - 1] ^= 1;
}

static int collective(struct op *first) {
  int n = first->comm->n;
  struct op *of_rank[64];
  char *in[64];
  for (int r = 0; r < n; r++) {
    struct op *o = of_rank[r] = of(first->kind, r, -1);
    if (!o || o->count != first->count || o->type != first->type || o->op != first->op || o->root != first->root) return USAGE;
  }
  for (int r = 0; r < n; r++) {
    size_t bytes = sends(first, n, r) * size(first->type);
    in[r] = memcpy(malloc(bytes + 1), of_rank[r]->s, bytes);
  }
  for (int r = 0; r < n; r++) give(of_rank[r], n, in, r), of_rank[r]->done = 1;
  for (int i = 0; i < 2 * n; i++) follow(of_rank[(i + 1) % n]->comm, of_rank[i % n]->comm);
  for (int r = 0; r < n; r++) free(in[r]);
  return 0;
}

// Waits for all processes.
static void meet(comm_t c) {
  unsigned all = ++c->met * c->n;
  __atomic_add_fetch(&c->shared->come, 1, __ATOMIC_SEQ_CST);
  while (__atomic_load_n(&c->shared->come, __ATOMIC_SEQ_CST) < all) usleep(20);
}
// A group of one rank among processes. Of collectives each says what it calls for and leaves what it sends; then each takes what is
// its own. Messages concern two ranks alone: what is sent lies in a box until the other has taken it.
static int together(comm_t c) {
  struct shared *shared = c->shared;
  int status = 0, n = pending, me = c->rank, collectives = 0;
  size_t at = 0;
  if (n > PIECES) return USAGE;
  for (int i = 0; i < n; i++) {
    struct op *o = &ops[i];
    size_t bytes = o->kind == RECEIVE ? 0 : sends(o, c->n, me) * size(o->type);
    if (at + bytes > SHARE) return USAGE;
    if (bytes) memcpy(shared->sent[me] + at, o->s, bytes);
    struct piece piece = {o->kind, o->count, at, o->type, o->op, o->root};
    if (o->kind == SEND) shared->box[me][o->root].piece = piece, __atomic_store_n(&shared->box[me][o->root].full, 1, __ATOMIC_SEQ_CST);
    else if (o->kind != RECEIVE) shared->said[me].piece[collectives++] = piece;
    at += bytes;
  }
  for (int i = 0; i < n; i++) {
    struct op *o = &ops[i];
    if (o->kind != RECEIVE) continue;
    while (!__atomic_load_n(&shared->box[o->root][me].full, __ATOMIC_SEQ_CST)) usleep(20);
    struct piece *p = &shared->box[o->root][me].piece;
    if (p->count != o->count || p->type != o->type) status = USAGE;
    else take(o, &(struct op){.s = shared->sent[o->root] + p->at});
    __atomic_store_n(&shared->box[o->root][me].full, 0, __ATOMIC_SEQ_CST);
  }
  for (int i = 0; i < n; i++)
    while (ops[i].kind == SEND && __atomic_load_n(&shared->box[me][ops[i].root].full, __ATOMIC_SEQ_CST)) usleep(20);
  if (!collectives) return status;
  shared->said[me].pieces = collectives;
  meet(c);
  for (int i = 0, k = 0; i < n && !status; i++) {
    struct op *o = &ops[i];
    char *in[RANKS];
    if (o->kind == SEND || o->kind == RECEIVE) continue;
    for (int r = 0; r < c->n; r++) {
      struct piece *p = &shared->said[r].piece[k];
      if (k >= shared->said[r].pieces || p->kind != o->kind || p->count != o->count || p->type != o->type || p->op != o->op || p->root != o->root) status = USAGE;
      in[r] = shared->sent[r] + p->at;
    }
    if (!status) give(o, c->n, in, me);
    k++;
  }
  meet(c);
  return status;
}

static int run(void) {
  int status = 0;
  if (pending && ops[0].comm->shared) {
    status = together(ops[0].comm);
    pending = 0;
    return status;
  }
  for (int i = 0; i < pending && !status; i++) {
    struct op *o = &ops[i];
    if (o->done || o->kind == RECEIVE) continue;
    if (o->kind != SEND) { status = collective(o); continue; }
    struct op *to = of(RECEIVE, o->root, o->comm->rank);
    if (!to || to->count != o->count || to->type != o->type) { status = USAGE; break; }
    take(to, o);
    o->done = to->done = 1;
  }
  for (int i = 0; i < pending && !status; i++) if (!ops[i].done) status = USAGE;
  pending = 0;
  return status;
}
// A line of what NCCL writes, where it is asked to. The file is opened once, and what it had is gone.
static void inform(const char *line) {
  static FILE *file;
  const char *level = getenv("NCCL_DEBUG"), *path = getenv("NCCL_DEBUG_FILE");
  if (!level || strcmp(level, "INFO") || !path) return;
  if (!file) {
    char name[4096];
    size_t n = 0;
    for (const char *c = path; *c && n < sizeof name - 20; c++)
      if (c[0] == '%' && c[1] == 'p') n += sprintf(name + n, "%d", (int)getpid()), c++;
      else name[n++] = *c;
    name[n] = 0;
    if (!(file = fopen(name, "w"))) return;
    setbuf(file, NULL);
  }
  fprintf(file, "stub:%d:1 [0] NCCL %s\n", (int)getpid(), line);
}
static void connected(int among) {
  const char *net = getenv("RP_STUB_NET");
  int socket = net && !strcmp(net, "socket");
  if (among) inform(socket ? "INFO NET/Socket : Using [0]eth0:10.0.0.9<0>" : "INFO NET/IB : Using [0]mlx5_0:1/IB [1]mlx5_1:1/IB [RO]; OOB eth0:10.0.0.7<0>");
  inform(socket ? "INFO Using network Socket" : "INFO Using network IB");
  inform("INFO Channel 00/0 : 0[0] -> 1[1] via P2P/CUMEM");
  if (among) inform(socket ? "INFO Channel 00/0 : 1[0] -> 2[0] [send] via NET/Socket/0" : "INFO Channel 00/0 : 1[0] -> 2[0] [send] via NET/IB/1/GDRDMA");
}
static int add(enum kind kind, const void *s, void *r, size_t count, int type, int op, int root, comm_t comm, void *stream) {
  if (type < 0 || type > 11 || !comm || !comm->live || !stream || (kind <= REDUCE_SCATTER && (op < 0 || op > 4))) return ARGUMENT;
  say("%s rank %d of %d count %zu type %d op %d root %d %s\n", names[kind], comm->rank, comm->n, count, type, op, root, s == r ? "in place" : "out of place");
  if (pending == MOST) return USAGE;
#ifdef SWEPT
  // As the library: a line of what has algorithms alone, with the bytes that a rank is given.
  const char *algorithm = getenv("NCCL_ALGO"), *protocol = getenv("NCCL_PROTO");
  size_t bytes = count * size(type);
  int reduces = kind == ALL_REDUCE, small = bytes < (reduces ? 8 << 10 : 4 << 10);
  if (kind <= BROADCAST) {
    if (reduces && algorithm && !strcmp(algorithm, "CollnetDirect")) {
      inform("WARN Error : no algorithm/protocol available");
      return INTERNAL;
    }
    if (algorithm && !strcmp(algorithm, "CollnetChain") && !reduces && small) algorithm = "RING";
    if (algorithm && !strcmp(algorithm, "NVLS") && !strcmp(protocol, "Simple")) return INTERNAL;
    char chosen[100];
    const char *own = reduces ? small ? "TREE" : "RING" : small ? "RING" : "PAT";
    snprintf(chosen, sizeof chosen, "INFO %s: %zu Bytes -> Algo %s proto %s channel{Lo..Hi}={0..1}", names[kind], bytes, algorithm ? algorithm : own, protocol ? protocol : small ? "LL" : "SIMPLE");
    if (comm->rank == 0) inform(chosen);
    if (reduces && small && algorithm && !strcmp(algorithm, "Tree") && !strcmp(protocol, "LL")) abort();
    if (reduces && small && algorithm && !strcmp(algorithm, "NVLSTree") && !strcmp(protocol, "LL128")) raise(SIGSTOP);
  }
#endif
  ops[pending++] = (struct op){kind, (char *)s, r, count, type, op, root, comm, 0};
  return depth ? 0 : run();
}

int ncclGetVersion(int *v) { *v = VERSION; return 0; }
int ncclGetUniqueId(id_t128 *id) {
  static int made;
  memset(id, 7, sizeof *id);
  sprintf(id->internal + 64, "/rp-stub-nccl-%d-%d", (int)getpid(), made++);
  return 0;
}
const char *ncclGetErrorString(int code) { return code == USAGE ? "invalid usage" : code == ARGUMENT ? "invalid argument" : "other"; }
static comm_t make(int rank, int n) {
  comm_t c = malloc(sizeof *c);
  *c = (struct comm){rank, n, 1, 0, NULL, 0};
  return c;
}
int ncclCommInitRank(comm_t *c, int n, id_t128 id, int rank) {
  connected(n > 1);
  for (int i = 0; i < 64; i++) if (id.internal[i] != 7) return ARGUMENT;
  if (n > RANKS) return ARGUMENT;
  say("InitRank %d of %d\n", rank, n);
  const char *fault = getenv("RP_STUB_NCCL");
  if (fault && !strcmp(fault, "refuse")) return 3;
  *c = make(rank, n);
  if (n == 1) return 0;
  int fd = shm_open(id.internal + 64, O_RDWR | O_CREAT, 0600);
  if (fd < 0 || ftruncate(fd, sizeof(struct shared))) return 2;
  (*c)->shared = mmap(NULL, sizeof(struct shared), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  close(fd);
  if ((*c)->shared == MAP_FAILED) return 2;
  meet(*c);
  if (rank == 0) shm_unlink(id.internal + 64);
  return 0;
}
static void stay(const char *where) {
  const char *fault = getenv("RP_STUB_NCCL");
  while (fault && !strcmp(fault, where)) pause();
}
int ncclCommInitAll(comm_t *c, int n, const int *devices) {
  stay("init");
  connected(0);
  say("InitAll %d:", n);
  for (int i = 0; i < n; i++) say(" %d", devices[i]), c[i] = make(i, n), c[i]->device = devices[i];
  say("\n");
  return 0;
}
int ncclCommDestroy(comm_t c) {
  say("Destroy %d\n", c->rank);
  if (c->shared) munmap(c->shared, sizeof *c->shared);
  c->live = 0;
  return 0;
}
int ncclCommAbort(comm_t c) { say("Abort %d\n", c->rank); c->live = 0; return 0; }
int ncclCommGetAsyncError(comm_t c, int *status) {
  const char *fault = getenv("RP_STUB_NCCL");
  *status = fault && !strcmp(fault, "async") && c->rank == 1 ? 6 : 0;
  return 0;
}
int ncclGroupStart(void) { depth++; return 0; }
int ncclGroupEnd(void) { stay("group"); return --depth ? 0 : run(); }

int ncclAllReduce(const void *s, void *r, size_t n, int t, int op, comm_t c, void *q) { return add(ALL_REDUCE, s, r, n, t, op, -1, c, q); }
int ncclReduce(const void *s, void *r, size_t n, int t, int op, int root, comm_t c, void *q) { return add(REDUCE, s, r, n, t, op, root, c, q); }
int ncclReduceScatter(const void *s, void *r, size_t n, int t, int op, comm_t c, void *q) { return add(REDUCE_SCATTER, s, r, n, t, op, -1, c, q); }
int ncclAllGather(const void *s, void *r, size_t n, int t, comm_t c, void *q) { return add(ALL_GATHER, s, r, n, t, 0, -1, c, q); }
int ncclBroadcast(const void *s, void *r, size_t n, int t, int root, comm_t c, void *q) { return add(BROADCAST, s, r, n, t, 0, root, c, q); }
int ncclSend(const void *s, size_t n, int t, int peer, comm_t c, void *q) { return add(SEND, s, NULL, n, t, 0, peer, c, q); }
int ncclRecv(void *r, size_t n, int t, int peer, comm_t c, void *q) { return add(RECEIVE, NULL, r, n, t, 0, peer, c, q); }
#ifdef ALLOC
int ALLOC(uint64_t *p, size_t n);
int FREE(uint64_t p);
int ncclMemAlloc(uint64_t *p, size_t n) { say("MemAlloc %zu\n", n); return ALLOC(p, n); }
int ncclMemFree(uint64_t p) { say("MemFree\n"); return FREE(p); }
#endif
#ifdef OLD
int ncclAllToAll(const void *s, void *r, size_t n, int t, comm_t c, void *q) { return add(ALL_TO_ALL, s, r, n, t, 0, -1, c, q); }
#elif !defined(BARE)
int ncclAlltoAll(const void *s, void *r, size_t n, int t, comm_t c, void *q) { return add(ALL_TO_ALL, s, r, n, t, 0, -1, c, q); }
int ncclGather(const void *s, void *r, size_t n, int t, int root, comm_t c, void *q) { return add(GATHER, s, r, n, t, 0, root, c, q); }
int ncclScatter(const void *s, void *r, size_t n, int t, int root, comm_t c, void *q) { return add(SCATTER, s, r, n, t, 0, root, c, q); }
int ncclCommRegister(comm_t c, void *p, size_t n, void **h) { say("Register rank %d bytes %zu\n", c->rank, n); *h = p; return 0; }
int ncclCommDeregister(comm_t c, void *h) { say("Deregister rank %d\n", c->rank); return 0; }
int ncclCommWindowRegister(comm_t c, void *p, size_t n, void **w, int flags) { say("Window rank %d bytes %zu flags %d\n", c->rank, n, flags); *w = p; return 0; }
int ncclCommWindowDeregister(comm_t c, void *w) { say("CloseWindow rank %d\n", c->rank); return 0; }
#endif
