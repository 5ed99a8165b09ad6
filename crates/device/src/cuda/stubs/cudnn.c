// Stands where cuDNN would: writes every finalized descriptor down, refuses what the real one refuses (a wrong class, a missing
// attribute, one that this version has not), and really attends, from nothing but the descriptors and the variant pack.
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef VERSION
#define VERSION 92801
#endif
#ifndef RUNTIME
#define RUNTIME 13000
#endif

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

size_t cudnnGetVersion(void) { return VERSION; }
size_t cudnnGetCudartVersion(void) { return RUNTIME; }
const char *cudnnGetErrorString(int code) { return code == 2000 ? "CUDNN_STATUS_BAD_PARAM" : code == 3000 ? "CUDNN_STATUS_NOT_SUPPORTED" : "CUDNN_STATUS_OTHER"; }
void cudnnGetLastErrorString(char *message, size_t room) { snprintf(message, room, "%s", said); }
#ifndef CREATE
#define CREATE 0
#endif
int cudnnCreate(void **h) { *h = &live; return CREATE; }
int cudnnDestroy(void *h) { if (log_file()) { fprintf(log_file(), "destroyed, %d descriptors left\n", live); fflush(log_file()); } return 0; }
int cudnnSetStream(void *h, void *stream) { stream_given = stream; return 0; }

int cudnnBackendCreateDescriptor(int kind, void **d) {
    Descriptor *made = calloc(1, sizeof *made);
    made->kind = kind;
    *d = made;
    live++;
    return 0;
}
int cudnnBackendDestroyDescriptor(void *d) { live--; free(d); return 0; }

// What an attribute's values are, and since which version it is there.
static int class_of(int a) {
    switch (a) {
    case 200: return 8;
    case 201: case 202: case 300: case 302: case 401: case 801: return 15;
    case 400: case 800: return 0;
    case 402: case 601: case 900: case 902: case 903: case 906: case 1000: case 1301: case 2812: case 2813: return 3;
    case 600: return 9;
    case 901: return 1;
    case 907: case 908: return 2;
    case 1001: case 1003: return 6;
    case 3007: return 14;
    }
    return a >= 2800 && a < 3200 ? 15 : -1;
}
static int since(int a) {
    return a >= 2822 && a < 2850 ? 92500 : a >= 2811 ? 92100 : a >= 2807 ? 91500 : 0;
}
static size_t size_of(int class) {
    static const size_t sizes[] = {8, 4, 1, 8, 4, 8, 8, 4, 4, 4, 4, 4, 4, 4, 4, 8};
    return sizes[class];
}

int cudnnBackendSetAttribute(void *p, int id, int class, int64_t count, const void *values) {
    Descriptor *d = p;
    if (d->done) return refuse(2000, "the descriptor is finalized");
    if (class_of(id) != class) return refuse(2010, "the attribute is of another class");
    if (since(id) > VERSION) return refuse(3000, "no such attribute");
    if (count * size_of(class) > sizeof d->all[0].bytes || d->attributes == 32) return refuse(2000, "too much");
    Attribute *a = &d->all[d->attributes++];
    a->id = id; a->class = class; a->count = count;
    memcpy(a->bytes, values, count * size_of(class));
    return 0;
}

static Attribute *find(Descriptor *d, int id) {
    for (int i = 0; i < d->attributes; i++) if (d->all[i].id == id) return &d->all[i];
    return NULL;
}
static int64_t number(Descriptor *d, int id, int64_t otherwise) {
    Attribute *a = find(d, id);
    if (!a) return otherwise;
    if (a->class == 2) return *(uint8_t *)a->bytes;
    return size_of(a->class) == 4 ? *(int32_t *)a->bytes : *(int64_t *)a->bytes;
}
static Descriptor *part(Descriptor *d, int id, int index) {
    Attribute *a = d ? find(d, id) : NULL;
    return a && index < a->count ? ((Descriptor **)a->bytes)[index] : NULL;
}

static void write_down(Descriptor *d) {
    FILE *f = log_file();
    if (!f) return;
    if (d->kind == 17) {
        fprintf(f, "tensor %ld type %ld align %ld%s%s [", (long)number(d, 906, -1), (long)number(d, 901, -1), (long)number(d, 900, -1), number(d, 907, 0) ? " between" : "", number(d, 908, 0) ? " by value" : "");
        for (int k = 902; k < 904; k++) for (int i = 0; i < 4; i++) fprintf(f, "%s%ld", i ? " " : k == 903 ? "] [" : "", (long)((int64_t *)find(d, k)->bytes)[i]);
        fprintf(f, "]\n");
    } else {
        fprintf(f, "finalized %d:", d->kind);
        for (int i = 0; i < d->attributes; i++) {
            Attribute *a = &d->all[i];
            fprintf(f, " %d=", a->id);
            for (int j = 0; j < a->count; j++) {
                if (a->class == 15) { Descriptor *o = ((Descriptor **)a->bytes)[j]; o->kind == 17 ? fprintf(f, "%s#%ld", j ? "," : "", (long)number(o, 906, -1)) : fprintf(f, "%s(%d)", j ? "," : "", o->kind); }
                else if (a->class == 6 || a->class == 0) fprintf(f, "%s*", j ? "," : "");
                else fprintf(f, "%s%ld", j ? "," : "", (long)(size_of(a->class) == 4 ? ((int32_t *)a->bytes)[j] : ((int64_t *)a->bytes)[j]));
            }
        }
        fprintf(f, "\n");
    }
    fflush(f);
}

int cudnnBackendFinalize(void *p) {
    Descriptor *d = p;
    static const int needed[][8] = {{4, 201, 200}, {5, 401, 400}, {15, 801}, {16, 1000, 1001, 1003}, {17, 900, 901, 902, 903, 906},
                                    {41, 2800, 2801, 2802, 2803, 2805}, {44, 3000, 3005, 3006, 3007}, {45, 3100, 3101}};
    for (size_t k = 0; k < sizeof needed / sizeof needed[0]; k++)
        if (needed[k][0] == d->kind) for (int i = 1; needed[k][i]; i++) if (!find(d, needed[k][i])) return refuse(2000, "an attribute is missing");
    for (int i = 0; i < d->attributes; i++)
        if (d->all[i].class == 15) for (int j = 0; j < d->all[i].count; j++) if (!part(d, d->all[i].id, j)->done) return refuse(2004, "a part is not finalized");
    if (d->kind == 41) {
        int q = number(part(d, 2800, 0), 901, -1), k = number(part(d, 2801, 0), 901, -1), v = number(part(d, 2802, 0), 901, -1);
        if ((q == 12) != (k == 12) || k != v) return refuse(2000, "Q, K, and V must either all be FP8 or all be non-FP8");
        if (q == 12) for (int a = 2822; a < 2830; a++) if (a != 2828 && !find(d, a)) return refuse(2000, "a factor is missing");
        if (find(d, 2807) && !find(d, 2810)) return refuse(2000, "pages need lengths");
    }
    d->done = 1;
    write_down(d);
    return 0;
}

// Two engines for what is not FP8 with a wider output, the second with less in its tile; a network that says the same.
static void set(Descriptor *d, int id, int class, int64_t value) { cudnnBackendSetAttribute(d, id, class, 1, &value); }
int cudnnBackendGetAttribute(void *p, int id, int class, int64_t room, int64_t *count, void *values) {
    Descriptor *d = p;
    if (d->kind == 4 && id == 202) {
        Descriptor *graph = part(d, 201, 0), *operation = part(graph, 801, 0);
        int none = number(part(operation, 2800, 0), 901, -1) == 12 && number(part(operation, 2803, 0), 901, -1) != 12;
        int all = none ? 0 : number(d, 200, -1) == 2 ? 1 : 2;
        for (*count = 0; *count < all && *count < room; ++*count) {
            Descriptor *config = ((Descriptor **)values)[*count];
            int64_t engine = *count ? 8 : 9;
            set(config, 402, 3, *count ? 0 : 256);
            set(config, 1301, 3, engine);
            set(config, 201 + 0, 15, (int64_t)graph);
            config->done = 1;
        }
        return 0;
    }
    if (d->kind == 3 && id == 300) { Descriptor *e = *(Descriptor **)values; set(e, 1301, 3, number(d, 1301, -1)); e->done = 1; *count = 1; return 0; }
    if (d->kind == 3 && id == 302) { Descriptor *k = *(Descriptor **)values; set(k, 600, 9, 40); set(k, 601, 3, number(d, 1301, -1) - 6); k->done = 1; *count = 1; return 0; }
    if (d->kind == 5 && id == 402) { *(int64_t *)values = number(part(d, 401, 0), 402, -1); *count = 1; return 0; }
    if (find(d, id) && class_of(id) == class) { memcpy(values, find(d, id)->bytes, size_of(class)); *count = 1; return 0; }
    return refuse(2000, "there is no such attribute");
}

static float read_element(const void *p, int type, int64_t i) {
    union { uint32_t u; float f; } bits;
    switch (type) {
    case 0: return ((const float *)p)[i];
    case 4: return ((const int32_t *)p)[i];
    case 9: bits.u = (uint32_t)((const uint16_t *)p)[i] << 16; return bits.f;
    case 2: return ((const _Float16 *)p)[i];
    }
    uint8_t b = ((const uint8_t *)p)[i];
    float m = (b & 127) < 8 ? ldexpf(b & 7, -9) : ldexpf(8 + (b & 7), ((b & 127) >> 3) - 10);
    return b & 128 ? -m : m;
}
static void write_element(void *p, int type, int64_t i, float x) {
    union { float f; uint32_t u; } bits = {x};
    if (type == 0) ((float *)p)[i] = x;
    else if (type == 2) ((_Float16 *)p)[i] = x;
    else if (type == 9) ((uint16_t *)p)[i] = (bits.u + 0x7fff + (bits.u >> 16 & 1)) >> 16;
    else {
        // The nearest of 256: slow, and needs no rounding of its own.
        int best = 0;
        for (int b = 0; b < 256; b++) { uint8_t c = b; if ((b & 127) != 127 && fabsf(read_element(&c, 12, 0) - x) < fabsf(read_element(&(uint8_t){best}, 12, 0) - x)) best = b; }
        ((uint8_t *)p)[i] = best;
    }
}

static Descriptor *pack;
static void *where(Descriptor *tensor) {
    int64_t *ids = (int64_t *)find(pack, 1000)->bytes, id = number(tensor, 906, -1);
    for (int i = 0; i < find(pack, 1000)->count; i++) if (ids[i] == id) return ((void **)find(pack, 1001)->bytes)[i];
    return NULL;
}
static float at(Descriptor *t, int64_t a, int64_t b, int64_t c, int64_t d) {
    int64_t *s = (int64_t *)find(t, 903)->bytes;
    return read_element(where(t), number(t, 901, -1), a * s[0] + b * s[1] + c * s[2] + d * s[3]);
}
static int64_t dim(Descriptor *t, int i) { return ((int64_t *)find(t, 902)->bytes)[i]; }

int cudnnBackendExecute(void *h, void *plan, void *variant_pack) {
    pack = variant_pack;
    if (!stream_given || !((Descriptor *)plan)->done) return refuse(2007, "no stream, or no plan");
    if (number(part(plan, 401, 0), 402, 0) && !*(void **)find(pack, 1003)->bytes) return refuse(2000, "no workspace");
    Descriptor *operation = part(part(part(plan, 401, 0), 201, 0), 801, 0);
    Descriptor *q = part(operation, 2800, 0), *k = part(operation, 2801, 0), *v = part(operation, 2802, 0), *o = part(operation, 2803, 0);
    Descriptor *pages_k = part(operation, 2807, 0), *pages_v = part(operation, 2808, 0);
    Descriptor *queries = part(operation, 2809, 0), *lengths = part(operation, 2810, 0);
    Descriptor *graph = part(operation, 2811, 0), *sink = part(part(operation, 2814, 0), 3105, 0);
    for (int i = 0; i < operation->attributes; i++)
        if (operation->all[i].class == 15 && part(operation, operation->all[i].id, 0)->kind == 17 && !where(part(operation, operation->all[i].id, 0))) return refuse(2000, "a tensor is not in the pack");
    int fp8 = number(q, 901, -1) == 12;
    float scale = at(part(operation, 2805, 0), 0, 0, 0, 0), factors[6] = {1, 1, 1, 1, 1, 1}, most = 0;
    for (int i = 0; fp8 && i < 6; i++) factors[i] = at(part(operation, 2822 + i, 0), 0, 0, 0, 0);
    int64_t group = dim(q, 1) / dim(k, 1), tokens = pages_k ? dim(k, 2) : 0;
    int64_t keys = graph ? dim(part(part(graph, 801, 0), 3000, 0), 3) : pages_k ? dim(pages_k, 2) * tokens : dim(k, 2);
    double *logits = malloc(sizeof *logits * keys), *out = malloc(sizeof *out * dim(v, 3));
    for (int64_t b = 0; b < dim(q, 0); b++) for (int64_t head = 0; head < dim(q, 1); head++) for (int64_t i = 0; i < dim(q, 2); i++) {
        int64_t seen = lengths ? at(lengths, b, 0, 0, 0) : keys, rows = queries ? at(queries, b, 0, 0, 0) : dim(q, 2);
        double top = sink ? at(sink, 0, head, 0, 0) : -INFINITY, sum = 0;
        for (int64_t j = 0; j < keys; j++) {
            logits[j] = -INFINITY;
            if (j >= seen || i >= rows) continue;
            int64_t block = pages_k ? (int64_t)at(pages_k, b, 0, j / tokens, 0) : b, in = pages_k ? j % tokens : j;
            double dot = 0;
            for (int64_t c = 0; c < dim(q, 3); c++) dot += (double)at(q, b, head, i, c) * at(k, block, head / group, in, c);
            logits[j] = dot * scale * factors[0] * factors[1];
            for (int n = 0; graph && n < find(graph, 801)->count; n++) {
                Descriptor *band = part(graph, 801, n), *sq = part(band, 3002, 0), *sk = part(band, 3001, 0), *left = part(band, 3003, 0);
                // One sequence has one number, or each its own.
                float of_q = sq ? at(sq, dim(sq, 0) > 1 ? b : 0, 0, 0, 0) : 0, of_k = sk ? at(sk, dim(sk, 0) > 1 ? b : 0, 0, 0, 0) : 0;
                float a = left ? j + at(left, 0, 0, 0, 0) - of_k + of_q : i + of_k - of_q, z = left ? i : j;
                if (number(band, 3007, 0) == 302 ? !(a > z) : !(a >= z)) logits[j] = at(part(band, 3005, 0), 0, 0, 0, 0);
            }
            if (logits[j] > top) top = logits[j];
        }
        if (sink) sum = exp(at(sink, 0, head, 0, 0) - top);
        for (int64_t c = 0; c < dim(v, 3); c++) out[c] = 0;
        for (int64_t j = 0; j < keys; j++) {
            if (!(logits[j] > -INFINITY)) continue;
            double weight = exp(logits[j] - top);
            sum += weight;
            int64_t block = pages_v ? (int64_t)at(pages_v, b, 0, j / tokens, 0) : b, in = pages_v ? j % tokens : j;
            for (int64_t c = 0; c < dim(v, 3); c++) out[c] += weight * factors[4] * factors[3] * factors[2] * at(v, block, head / group, in, c);
        }
        int64_t *s = (int64_t *)find(o, 903)->bytes;
        for (int64_t c = 0; c < dim(v, 3); c++) {
            float x = (sum > 0 ? out[c] / sum : 0) * factors[5];
            if (fabsf(x) > most) most = fabsf(x);
            write_element(where(o), number(o, 901, -1), b * s[0] + head * s[1] + i * s[2] + c, x);
        }
    }
    if (fp8) write_element(where(part(operation, 2829, 0)), 0, 0, most);
    free(logits);
    free(out);
    if (log_file()) { fprintf(log_file(), "executed engine %ld\n", (long)number(part(plan, 401, 0), 1301, -1)); fflush(log_file()); }
    return 0;
}
