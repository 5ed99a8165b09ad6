// What the stubs of cuDNN and of hipDNN do alike: keep what a descriptor is told and write it down, and attend, from nothing but
// the descriptors and the pack. Included behind the numbers of one of them.
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct { int id, class; int64_t count; char bytes[256]; } Attribute;
typedef struct Descriptor { int kind, done, attributes; Attribute all[32]; } Descriptor;

static char said[256];
static int live;
static void *stream_given;

static int refuse(int code, const char *why) { snprintf(said, sizeof said, "%s", why); return code; }
static FILE *log_file(void) {
    static FILE *f;
    if (!f && getenv("RP_STUB_LOG")) f = fopen(getenv("RP_STUB_LOG"), "a");
    return f;
}
static void write_line(const char *what, long number) {
    if (log_file()) { fprintf(log_file(), what, number); fflush(log_file()); }
}

static Descriptor *make(int kind) {
    Descriptor *made = calloc(1, sizeof *made);
    made->kind = kind;
    live++;
    return made;
}

// Bytes of a value of a class: all but one count these alike.
static size_t size_of(int class) {
    switch (class) {
    case C_BOOLEAN: case C_CHAR: return 1;
    case C_HANDLE: case C_INT64: case C_POINTER: case C_DESCRIPTOR: return 8;
    }
    return 4;
}
static int store(Descriptor *d, int id, int class, int64_t count, const void *values) {
    if (count * size_of(class) > sizeof d->all[0].bytes || d->attributes == 32) return refuse(BAD_PARAM, "too much");
    Attribute *a = &d->all[d->attributes++];
    a->id = id; a->class = class; a->count = count;
    memcpy(a->bytes, values, count * size_of(class));
    return 0;
}
static void put(Descriptor *d, int id, int class, int64_t value) { store(d, id, class, 1, &value); }

static Attribute *find(Descriptor *d, int id) {
    for (int i = 0; i < d->attributes; i++) if (d->all[i].id == id) return &d->all[i];
    return NULL;
}
static int64_t number(Descriptor *d, int id, int64_t otherwise) {
    Attribute *a = find(d, id);
    if (!a) return otherwise;
    size_t size = size_of(a->class);
    return size == 1 ? *(uint8_t *)a->bytes : size == 4 ? *(int32_t *)a->bytes : *(int64_t *)a->bytes;
}
static Descriptor *part(Descriptor *d, int id, int index) {
    Attribute *a = d ? find(d, id) : NULL;
    return a && index < a->count ? ((Descriptor **)a->bytes)[index] : NULL;
}
// Everything that a kind of descriptor needs, ended by 0; and parts that are finalized.
static int is_whole(Descriptor *d, const int needed[][8], int kinds) {
    for (int k = 0; k < kinds; k++)
        if (needed[k][0] == d->kind) for (int i = 1; needed[k][i]; i++) if (!find(d, needed[k][i])) return refuse(BAD_PARAM, "an attribute is missing");
    for (int i = 0; i < d->attributes; i++)
        if (d->all[i].class == C_DESCRIPTOR) for (int j = 0; j < d->all[i].count; j++) if (!part(d, d->all[i].id, j)->done) return refuse(NOT_FINALIZED, "a part is not finalized");
    return 0;
}

static void write_down(Descriptor *d) {
    FILE *f = log_file();
    if (!f) return;
    if (d->kind == TENSOR) {
        fprintf(f, "tensor %ld type %ld", (long)number(d, TENSOR_ID, -1), (long)number(d, TENSOR_TYPE, -1));
        if (find(d, TENSOR_ALIGNMENT)) fprintf(f, " align %ld", (long)number(d, TENSOR_ALIGNMENT, -1));
        fprintf(f, "%s%s [", number(d, TENSOR_VIRTUAL, 0) ? " between" : "", number(d, TENSOR_BY_VALUE, 0) ? " by value" : "");
        int both[] = {TENSOR_DIMENSIONS, TENSOR_STRIDES};
        for (int k = 0; k < 2; k++) for (int i = 0; i < 4; i++) fprintf(f, "%s%ld", i ? " " : k ? "] [" : "", (long)((int64_t *)find(d, both[k])->bytes)[i]);
        fprintf(f, "]\n");
    } else {
        fprintf(f, "finalized %d:", d->kind);
        for (int i = 0; i < d->attributes; i++) {
            Attribute *a = &d->all[i];
            fprintf(f, " %d=", a->id);
            for (int j = 0; j < a->count; j++) {
                size_t size = size_of(a->class);
                const char *comma = j ? "," : "";
                if (a->class == C_DESCRIPTOR) { Descriptor *o = ((Descriptor **)a->bytes)[j]; o->kind == TENSOR ? fprintf(f, "%s#%ld", comma, (long)number(o, TENSOR_ID, -1)) : fprintf(f, "%s(%d)", comma, o->kind); }
                else if (a->class == C_POINTER || a->class == C_HANDLE) fprintf(f, "%s*", comma);
                else if (a->class == C_FLOAT) fprintf(f, "%s%g", comma, ((float *)a->bytes)[j]);
                else fprintf(f, "%s%ld", comma, (long)(size == 1 ? ((uint8_t *)a->bytes)[j] : size == 4 ? ((int32_t *)a->bytes)[j] : ((int64_t *)a->bytes)[j]));
            }
        }
        fprintf(f, "\n");
    }
    fflush(f);
}

static float read_element(const void *p, int type, int64_t i) {
    union { uint32_t u; float f; } bits;
    switch (type) {
    case F32: return ((const float *)p)[i];
    case I32: return ((const int32_t *)p)[i];
    case BF16: bits.u = (uint32_t)((const uint16_t *)p)[i] << 16; return bits.f;
    case F16: return ((const _Float16 *)p)[i];
    }
    // The FNUZ encoding's exponents count from one more.
    uint8_t b = ((const uint8_t *)p)[i];
    int fnuz = type == E4M3_FNUZ;
    float m = (b & 127) < 8 ? ldexpf(b & 7, -9 - fnuz) : ldexpf(8 + (b & 7), ((b & 127) >> 3) - 10 - fnuz);
    return b & 128 ? -m : m;
}
static void write_element(void *p, int type, int64_t i, float x) {
    union { float f; uint32_t u; } bits = {x};
    if (type == F32) ((float *)p)[i] = x;
    else if (type == F16) ((_Float16 *)p)[i] = x;
    else if (type == BF16) ((uint16_t *)p)[i] = (bits.u + 0x7fff + (bits.u >> 16 & 1)) >> 16;
    else {
        // The nearest of 256: slow, and needs no rounding of its own.
        int best = 0;
        for (int b = 0; b < 256; b++) { uint8_t c = b; if ((b & 127) != 127 && fabsf(read_element(&c, type, 0) - x) < fabsf(read_element(&(uint8_t){best}, type, 0) - x)) best = b; }
        ((uint8_t *)p)[i] = best;
    }
}

static Descriptor *pack;
static void *where(Descriptor *tensor) {
    int64_t *ids = (int64_t *)find(pack, PACK_IDS)->bytes, id = number(tensor, TENSOR_ID, -1);
    for (int i = 0; i < find(pack, PACK_IDS)->count; i++) if (ids[i] == id) return ((void **)find(pack, PACK_POINTERS)->bytes)[i];
    return NULL;
}
static float at(Descriptor *t, int64_t a, int64_t b, int64_t c, int64_t d) {
    int64_t *s = (int64_t *)find(t, TENSOR_STRIDES)->bytes;
    return read_element(where(t), number(t, TENSOR_TYPE, -1), a * s[0] + b * s[1] + c * s[2] + d * s[3]);
}
static int64_t dim(Descriptor *t, int i) { return ((int64_t *)find(t, TENSOR_DIMENSIONS)->bytes)[i]; }
static int is_packed(Descriptor *operation) {
    for (int i = 0; i < operation->attributes; i++)
        if (operation->all[i].class == C_DESCRIPTOR && part(operation, operation->all[i].id, 0)->kind == TENSOR && !where(part(operation, operation->all[i].id, 0))) return 0;
    return 1;
}

// Tensors that are not there are null. The factors are of Q, K, V, the weights as they are read and as they are stored, and O.
typedef struct {
    Descriptor *q, *k, *v, *o, *pages_k, *pages_v, *queries, *lengths, *sink;
    float scale, factors[6];
    int64_t keys;
} Attention;

// The largest value that was written. `masked` gives what stands for the logit of query i and key j of a sequence.
static float attend(const Attention *t, float (*masked)(Descriptor *operation, int64_t b, int64_t i, int64_t j, int64_t rows, int64_t seen, float logit), Descriptor *operation) {
    float most = 0;
    int64_t group = dim(t->q, 1) / dim(t->k, 1), tokens = t->pages_k ? dim(t->k, 2) : 0, keys = t->keys;
    double *logits = malloc(sizeof *logits * keys), *out = malloc(sizeof *out * dim(t->v, 3));
    for (int64_t b = 0; b < dim(t->q, 0); b++) for (int64_t head = 0; head < dim(t->q, 1); head++) for (int64_t i = 0; i < dim(t->q, 2); i++) {
        int64_t seen = t->lengths ? at(t->lengths, b, 0, 0, 0) : keys, rows = t->queries ? at(t->queries, b, 0, 0, 0) : dim(t->q, 2);
        double top = t->sink ? at(t->sink, 0, head, 0, 0) : -INFINITY, sum = 0;
        for (int64_t j = 0; j < keys; j++) {
            logits[j] = -INFINITY;
            if (j >= seen || i >= rows) continue;
            int64_t block = t->pages_k ? (int64_t)at(t->pages_k, b, 0, j / tokens, 0) : b, in = t->pages_k ? j % tokens : j;
            double dot = 0;
            for (int64_t c = 0; c < dim(t->q, 3); c++) dot += (double)at(t->q, b, head, i, c) * at(t->k, block, head / group, in, c);
            logits[j] = masked(operation, b, i, j, rows, seen, dot * t->scale * t->factors[0] * t->factors[1]);
            if (logits[j] > top) top = logits[j];
        }
        if (t->sink) sum = exp(at(t->sink, 0, head, 0, 0) - top);
        for (int64_t c = 0; c < dim(t->v, 3); c++) out[c] = 0;
        for (int64_t j = 0; j < keys; j++) {
            if (!(logits[j] > -INFINITY)) continue;
            double weight = exp(logits[j] - top);
            sum += weight;
            int64_t block = t->pages_v ? (int64_t)at(t->pages_v, b, 0, j / tokens, 0) : b, in = t->pages_v ? j % tokens : j;
            for (int64_t c = 0; c < dim(t->v, 3); c++) out[c] += weight * t->factors[4] * t->factors[3] * t->factors[2] * at(t->v, block, head / group, in, c);
        }
        int64_t *s = (int64_t *)find(t->o, TENSOR_STRIDES)->bytes;
        for (int64_t c = 0; c < dim(t->v, 3); c++) {
            float x = (sum > 0 ? out[c] / sum : 0) * t->factors[5];
            if (fabsf(x) > most) most = fabsf(x);
            write_element(where(t->o), number(t->o, TENSOR_TYPE, -1), b * s[0] + head * s[1] + i * s[2] + c, x);
        }
    }
    free(logits);
    free(out);
    return most;
}
