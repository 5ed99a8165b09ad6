// Stands where hipDNN would: writes every finalized descriptor down, refuses what the real one refuses (a wrong class, a missing
// attribute, a descriptor that is not finalized), and really attends, from nothing but the descriptors and the variant pack. As in
// the real one a ranking fills configurations and leaves them open, and asking for an engine makes a descriptor.
enum { C_HANDLE = 0, C_DATA_TYPE, C_BOOLEAN, C_INT64, C_FLOAT, C_POINTER = 6, C_HEURISTIC_MODE, C_DESCRIPTOR = 13, C_INT32 = 18, C_CHAR, C_ALIGNMENT = 26 };
enum { TENSOR = 14, TENSOR_ID = 1300, TENSOR_TYPE = 1302, TENSOR_DIMENSIONS, TENSOR_STRIDES, TENSOR_VIRTUAL, TENSOR_BY_VALUE = 1307, TENSOR_ALIGNMENT = 1309 };
enum { PACK_IDS = 700, PACK_POINTERS, PACK_WORKSPACE = 703 };
enum { F32 = 0, F16 = 2, I32 = 4, BF16 = 6, E4M3 = 7, E5M2 = 8, E4M3_FNUZ = 16 };
enum { NOT_INITIALIZED = 1, BAD_PARAM, NOT_FINALIZED = 4, NOT_SUPPORTED = 8, EXECUTION_FAILED = 13, PLUGIN_ERROR };
#include "dnn.h"

#ifndef VERSION
#define VERSION "1.3.0.stub"
#endif
#ifndef CREATE
#define CREATE 0
#endif
#ifndef EXECUTE
#define EXECUTE 0
#endif
// Another number is a library that masks wrongly.
#ifndef LAST_CORNER
#define LAST_CORNER 1
#endif
// Of its engines the third wants more memory than there is, and the last cannot be built.
#ifndef ENGINES
#define ENGINES 4
#endif
#ifndef WORKING
#define WORKING 3
#endif
static const int64_t WANTED[] = {256, 0, 1ll << 40, 0};
static int64_t id_of(int64_t engine) { return (engine + 1) * 0x1111111111111111; }

const char *hipdnnVersionString_ext(void) { return VERSION; }
const char *hipdnnGetErrorString(int code) {
    return code == BAD_PARAM ? "HIPDNN_STATUS_BAD_PARAM" : code == NOT_SUPPORTED ? "HIPDNN_STATUS_NOT_SUPPORTED" : code == PLUGIN_ERROR ? "HIPDNN_STATUS_PLUGIN_ERROR" : "HIPDNN_STATUS_OTHER";
}
void hipdnnGetLastErrorString(char *message, size_t room) { snprintf(message, room, "%s", said); said[0] = 0; }
int hipdnnCreate(void **h) { *h = &live; return CREATE; }
int hipdnnDestroy(void *h) { write_line("destroyed, %ld descriptors left\n", live); return 0; }
int hipdnnSetStream(void *h, void *stream) { stream_given = stream; return 0; }

int hipdnnGetEngineCount_ext(void *h, size_t *count) { *count = ENGINES; return h ? 0 : BAD_PARAM; }
int hipdnnGetEngineInfo_ext(void *h, size_t index, int64_t *id, char *name, size_t *name_room, char *plugin, size_t *plugin_room, char *version, size_t *version_room, char *kind, size_t *kind_room) {
    if (index >= ENGINES || *name_room < 16 || *plugin_room < 16 || *version_room < 16 || *kind_room < 16) return BAD_PARAM;
    *id = id_of(index);
    *name_room = snprintf(name, *name_room, "ENGINE_%c", 'A' + (int)index) + 1;
    *plugin_room = snprintf(plugin, *plugin_room, "stub_plugin") + 1;
    *version_room = snprintf(version, *version_room, "0.9") + 1;
    *kind_room = snprintf(kind, *kind_room, "engine") + 1;
    return 0;
}

int hipdnnBackendCreateDescriptor(int kind, void **d) {
#ifdef WITHOUT_ATTENTION
    if (kind == 24) return refuse(NOT_SUPPORTED, "no such descriptor");
#endif
    if (kind < 1 || kind > 35) return refuse(NOT_SUPPORTED, "no such descriptor");
    *d = make(kind);
    return 0;
}
int hipdnnBackendDestroyDescriptor(void *d) { live--; free(d); return d ? 0 : BAD_PARAM; }

static int class_of(int a) {
    switch (a) {
    case 100: return C_HEURISTIC_MODE;
    case 101: case 102: case 200: case 301: case 601: return C_DESCRIPTOR;
    case 600: return C_HANDLE;
    case 302: case 700: case 1001: case 1300: case 1303: case 1304: case 2635: case 2636: return C_INT64;
    case 604: case 605: case 606: case 1302: case 2641: return C_DATA_TYPE;
    case 701: case 703: return C_POINTER;
    case 2628: case 2630: return C_BOOLEAN;
    case 2634: return C_FLOAT;
    case 2637: return C_INT32;
    case 2638: return C_ALIGNMENT;
    }
    return a >= 2600 && a < 2628 ? C_DESCRIPTOR : -1;
}
int hipdnnBackendSetAttribute(void *p, int id, int class, int64_t count, const void *values) {
    Descriptor *d = p;
    if (d->done) return refuse(NOT_INITIALIZED, "Already finalized.");
    if (class_of(id) < 0) return refuse(NOT_SUPPORTED, "attributeName not supported");
    if (class_of(id) != class) return refuse(BAD_PARAM, "attributeType mismatch");
    return store(d, id, class, count, values);
}

static int fp8(int64_t type) { return type == E4M3 || type == E5M2 || type == E4M3_FNUZ; }

int hipdnnBackendFinalize(void *p) {
    Descriptor *d = p;
    static const int needed[][8] = {{2, 1001}, {3, 101, 100}, {4, 301}, {10, 601, 600, 604, 605, 606}, {11, 700, 701, 703},
                                    {14, 1300, 1302, 1303, 1304}, {24, 2600, 2601, 2602, 2603, 2641}};
    if (d->done) return refuse(BAD_PARAM, "Already finalized.");
    int lacks = is_whole(d, needed, sizeof needed / sizeof needed[0]);
    if (lacks) return lacks;
    if (d->kind == 24) {
        if ((part(d, 2606, 0) || part(d, 2607, 0)) && !number(d, 2630, 0)) return refuse(BAD_PARAM, "lengths and no padding mask");
        if (part(d, 2612, 0) && !(part(d, 2607, 0) && find(d, 2637))) return refuse(BAD_PARAM, "pages and no lengths");
    }
    if (d->kind == 4 && number(part(d, 301, 0), 1001, 0) > id_of(WORKING - 1)) return refuse(PLUGIN_ERROR, "no kernel could\nbe built");
    d->done = 1;
    write_down(d);
    return 0;
}

// FP8 and f32 do not mix here, and f32 alone has no engine.
static int applicable(Descriptor *operation) { return number(part(operation, 2600, 0), 1302, -1) != F32 ? ENGINES : 0; }
int hipdnnBackendGetAttribute(void *p, int id, int class, int64_t room, int64_t *count, void *values) {
    Descriptor *d = p;
    if (!d || !d->done) return refuse(NOT_INITIALIZED, "Not finalized.");
    if (class_of(id) != class) return refuse(BAD_PARAM, "Invalid attribute type.");
    if (d->kind == 3 && id == 102) {
        Descriptor *graph = part(d, 101, 0);
        for (*count = 0; *count < applicable(part(graph, 601, 0)) && *count < room; ++*count) {
            Descriptor *config = ((Descriptor **)values)[*count];
            put(config, 1001, C_INT64, id_of(*count));
            put(config, 101, C_DESCRIPTOR, (int64_t)graph);
        }
        return 0;
    }
    *count = 1;
    if (d->kind == 2 && id == 200) {
        Descriptor *engine = make(1);
        put(engine, 1001, C_INT64, number(d, 1001, -1));
        engine->done = 1;
        *(Descriptor **)values = engine;
        return 0;
    }
    if (d->kind == 4 && id == 302) { *(int64_t *)values = WANTED[number(part(d, 301, 0), 1001, -1) / id_of(0) - 1]; return 0; }
    if (find(d, id)) { memcpy(values, find(d, id)->bytes, size_of(class)); return 0; }
    return refuse(NOT_SUPPORTED, "getAttribute() is not supported");
}

// Bounds to the left and to the right of a diagonal, which begins in the first corner or ends in the last.
static float bounded(Descriptor *operation, int64_t b, int64_t i, int64_t j, int64_t rows, int64_t seen, float logit) {
    int64_t own = i + (number(operation, 2638, 0) == LAST_CORNER ? seen - rows : 0);
    int64_t left = number(operation, 2635, -1), right = number(operation, 2636, -1);
    return (left >= 0 && j < own - left) || (right >= 0 && j > own + right) ? -INFINITY : logit;
}

int hipdnnBackendExecute(void *h, void *plan, void *variant_pack) {
    pack = variant_pack;
    if (EXECUTE) return refuse(EXECUTE, "the kernel was not launched");
    if (!stream_given || !((Descriptor *)plan)->done) return refuse(NOT_FINALIZED, "no stream, or no plan");
    Descriptor *config = part(plan, 301, 0), *operation = part(part(config, 101, 0), 601, 0);
    int64_t engine = number(config, 1001, -1) / id_of(0) - 1;
    if (WANTED[engine] && !*(void **)find(pack, PACK_WORKSPACE)->bytes) return refuse(BAD_PARAM, "no workspace");
    if (!is_packed(operation)) return refuse(BAD_PARAM, "a tensor is not in the pack");
    Attention t = {.factors = {1, 1, 1, 1, 1, 1}, .scale = *(float *)find(operation, 2634)->bytes};
    Descriptor **tensors[] = {&t.q, &t.k, &t.v, &t.o, &t.queries, &t.lengths, &t.pages_k, &t.pages_v, &t.sink};
    int ids[] = {2600, 2601, 2602, 2603, 2606, 2607, 2612, 2613, 2615};
    for (int n = 0; n < 9; n++) *tensors[n] = part(operation, ids[n], 0);
    for (int n = 0; n < 3; n++) {
        if (part(operation, 2616 + n, 0)) t.factors[n] = at(part(operation, 2616 + n, 0), 0, 0, 0, 0);
        else if (fp8(number(n ? t.k : t.q, 1302, -1))) return refuse(BAD_PARAM, "a factor is missing");
    }
    t.keys = t.pages_k ? number(operation, 2637, 0) : dim(t.k, 2);
    attend(&t, bounded, operation);
    write_line("executed engine %ld\n", (long)engine);
    return 0;
}
