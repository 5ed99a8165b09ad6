// Stands where cuDNN would: writes every finalized descriptor down, refuses what the real one refuses (a wrong class, a missing
// attribute, one that this version has not), and really attends, from nothing but the descriptors and the variant pack.
enum { C_HANDLE = 0, C_DATA_TYPE, C_BOOLEAN, C_INT64, C_FLOAT, C_POINTER = 6, C_DESCRIPTOR = 15, C_CHAR = 24 };
enum { TENSOR = 17, TENSOR_ALIGNMENT = 900, TENSOR_TYPE, TENSOR_DIMENSIONS, TENSOR_STRIDES, TENSOR_ID = 906, TENSOR_VIRTUAL, TENSOR_BY_VALUE };
enum { PACK_IDS = 1000, PACK_POINTERS, PACK_WORKSPACE = 1003 };
enum { F32 = 0, F16 = 2, I32 = 4, BF16 = 9, E4M3 = 12, E4M3_FNUZ = -1 };
enum { BAD_PARAM = 2000, NOT_FINALIZED = 2004 };
#include "dnn.h"

#ifndef VERSION
#define VERSION 92801
#endif
#ifndef RUNTIME
#define RUNTIME 13000
#endif

size_t cudnnGetVersion(void) { return VERSION; }
size_t cudnnGetCudartVersion(void) { return RUNTIME; }
const char *cudnnGetErrorString(int code) { return code == 2000 ? "CUDNN_STATUS_BAD_PARAM" : code == 3000 ? "CUDNN_STATUS_NOT_SUPPORTED" : "CUDNN_STATUS_OTHER"; }
void cudnnGetLastErrorString(char *message, size_t room) { snprintf(message, room, "%s", said); }
#ifndef CREATE
#define CREATE 0
#endif
int cudnnCreate(void **h) { *h = &live; return CREATE; }
int cudnnDestroy(void *h) { write_line("destroyed, %ld descriptors left\n", live); return 0; }
int cudnnSetStream(void *h, void *stream) { stream_given = stream; return 0; }

int cudnnBackendCreateDescriptor(int kind, void **d) { *d = make(kind); return 0; }
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

int cudnnBackendSetAttribute(void *p, int id, int class, int64_t count, const void *values) {
    Descriptor *d = p;
    if (d->done) return refuse(2000, "the descriptor is finalized");
    if (class_of(id) != class) return refuse(2010, "the attribute is of another class");
    if (since(id) > VERSION) return refuse(3000, "no such attribute");
    return store(d, id, class, count, values);
}

int cudnnBackendFinalize(void *p) {
    Descriptor *d = p;
    static const int needed[][8] = {{4, 201, 200}, {5, 401, 400}, {15, 801}, {16, 1000, 1001, 1003}, {17, 900, 901, 902, 903, 906},
                                    {41, 2800, 2801, 2802, 2803, 2805}, {44, 3000, 3005, 3006, 3007}, {45, 3100, 3101}};
    int lacks = is_whole(d, needed, sizeof needed / sizeof needed[0]);
    if (lacks) return lacks;
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
int cudnnBackendGetAttribute(void *p, int id, int class, int64_t room, int64_t *count, void *values) {
    Descriptor *d = p;
    if (d->kind == 4 && id == 202) {
        Descriptor *graph = part(d, 201, 0), *operation = part(graph, 801, 0);
        int none = number(part(operation, 2800, 0), 901, -1) == 12 && number(part(operation, 2803, 0), 901, -1) != 12;
        int all = none ? 0 : number(d, 200, -1) == 2 ? 1 : 2;
        for (*count = 0; *count < all && *count < room; ++*count) {
            Descriptor *config = ((Descriptor **)values)[*count];
            put(config, 402, 3, *count ? 0 : 256);
            put(config, 1301, 3, *count ? 8 : 9);
            put(config, 201, 15, (int64_t)graph);
            config->done = 1;
        }
        return 0;
    }
    if (d->kind == 3 && id == 300) { Descriptor *e = *(Descriptor **)values; put(e, 1301, 3, number(d, 1301, -1)); e->done = 1; *count = 1; return 0; }
    if (d->kind == 3 && id == 302) { Descriptor *k = *(Descriptor **)values; put(k, 600, 9, 40); put(k, 601, 3, number(d, 1301, -1) - 6); k->done = 1; *count = 1; return 0; }
    if (d->kind == 5 && id == 402) { *(int64_t *)values = number(part(d, 401, 0), 402, -1); *count = 1; return 0; }
    if (find(d, id) && class_of(id) == class) { memcpy(values, find(d, id)->bytes, size_of(class)); *count = 1; return 0; }
    return refuse(2000, "there is no such attribute");
}

// The masks of its graph, one behind the other. One sequence has one length, or each its own.
static float banded(Descriptor *operation, int64_t b, int64_t i, int64_t j, int64_t rows, int64_t seen, float logit) {
    Descriptor *graph = part(operation, 2811, 0);
    for (int n = 0; graph && n < find(graph, 801)->count; n++) {
        Descriptor *band = part(graph, 801, n), *sq = part(band, 3002, 0), *sk = part(band, 3001, 0), *left = part(band, 3003, 0);
        float of_q = sq ? at(sq, dim(sq, 0) > 1 ? b : 0, 0, 0, 0) : 0, of_k = sk ? at(sk, dim(sk, 0) > 1 ? b : 0, 0, 0, 0) : 0;
        float a = left ? j + at(left, 0, 0, 0, 0) - of_k + of_q : i + of_k - of_q, z = left ? i : j;
        if (number(band, 3007, 0) == 302 ? !(a > z) : !(a >= z)) logit = at(part(band, 3005, 0), 0, 0, 0, 0);
    }
    return logit;
}

int cudnnBackendExecute(void *h, void *plan, void *variant_pack) {
    pack = variant_pack;
    if (!stream_given || !((Descriptor *)plan)->done) return refuse(2007, "no stream, or no plan");
    if (number(part(plan, 401, 0), 402, 0) && !*(void **)find(pack, 1003)->bytes) return refuse(2000, "no workspace");
    Descriptor *operation = part(part(part(plan, 401, 0), 201, 0), 801, 0), *graph = part(operation, 2811, 0);
    if (!is_packed(operation)) return refuse(2000, "a tensor is not in the pack");
    Attention t = {.factors = {1, 1, 1, 1, 1, 1}, .scale = at(part(operation, 2805, 0), 0, 0, 0, 0)};
    Descriptor **tensors[] = {&t.q, &t.k, &t.v, &t.o, &t.pages_k, &t.pages_v, &t.queries, &t.lengths};
    int ids[] = {2800, 2801, 2802, 2803, 2807, 2808, 2809, 2810};
    for (int n = 0; n < 8; n++) *tensors[n] = part(operation, ids[n], 0);
    t.sink = part(part(operation, 2814, 0), 3105, 0);
    int fp8 = number(t.q, 901, -1) == 12;
    for (int n = 0; fp8 && n < 6; n++) t.factors[n] = at(part(operation, 2822 + n, 0), 0, 0, 0, 0);
    t.keys = graph ? dim(part(part(graph, 801, 0), 3000, 0), 3) : t.pages_k ? dim(t.pages_k, 2) * dim(t.k, 2) : dim(t.k, 2);
    float most = attend(&t, banded, operation);
    if (fp8) write_element(where(part(operation, 2829, 0)), 0, 0, most);
    write_line("executed engine %ld\n", (long)number(part(plan, 401, 0), 1301, -1));
    return 0;
}
