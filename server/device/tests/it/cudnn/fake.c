/* A stand-in for cuDNN that plans anything and computes nothing. It checks what it is given as far as a test needs, and
 * an execution fails with a message that tells everything that it was given. Numbers are of cudnn_graph_v9.h. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { EXECUTION_PLAN = 5, VARIANT_PACK = 16, TENSOR = 17, OPERATION_SDPA_FWD = 41 };
enum { TYPE_BOOLEAN = 2, TYPE_INT64 = 3, TYPE_FLOAT = 4, TYPE_VOID_PTR = 6, TYPE_BACKEND_DESCRIPTOR = 15, TYPE_CHAR = 24 };

struct attribute {
    uint32_t name, type;
    int64_t count;
    char values[128];
};

struct descriptor {
    uint32_t kind;
    int64_t number; /* of an engine */
    struct descriptor *graph; /* of an engine's configuration */
    int attributes;
    struct attribute attribute[16];
};

struct handle {
    void *stream;
};

static _Thread_local char message[4096];

size_t cudnnGetVersion(void) { return VERSION; }

void cudnnGetLastErrorString(char *text, size_t size) { snprintf(text, size, "%s", message); }

uint32_t cudnnCreate(struct handle **handle) {
#ifdef CREATION_STATUS
    return CREATION_STATUS;
#endif
    *handle = calloc(1, sizeof **handle);
    return 0;
}

uint32_t cudnnDestroy(struct handle *handle) {
    free(handle);
    return 0;
}

uint32_t cudnnSetStream(struct handle *handle, void *stream) {
    handle->stream = stream;
    return 0;
}

uint32_t cudnnBackendCreateDescriptor(uint32_t kind, struct descriptor **descriptor) {
#ifdef WITHOUT_SDPA
    if (kind == OPERATION_SDPA_FWD) return 4003;
#endif
    *descriptor = calloc(1, sizeof **descriptor);
    (*descriptor)->kind = kind;
    return 0;
}

uint32_t cudnnBackendDestroyDescriptor(struct descriptor *descriptor) {
    free(descriptor);
    return 0;
}

uint32_t cudnnBackendFinalize(struct descriptor *descriptor) {
#ifdef PLAN_STATUS
    if (descriptor && descriptor->kind == EXECUTION_PLAN) return PLAN_STATUS;
#endif
    return descriptor ? 0 : 2002;
}

uint32_t cudnnBackendSetAttribute(struct descriptor *descriptor, uint32_t name, uint32_t type, int64_t count,
                                  const void *values) {
    size_t size = type == TYPE_CHAR || type == TYPE_BOOLEAN ? 1
        : type == 0 || type == TYPE_INT64 || type == TYPE_VOID_PTR || type == TYPE_BACKEND_DESCRIPTOR ? 8 : 4;
    if (descriptor->attributes == 16 || size * count > sizeof descriptor->attribute[0].values) return 2006;
    struct attribute *attribute = &descriptor->attribute[descriptor->attributes++];
    attribute->name = name;
    attribute->type = type;
    attribute->count = count;
    memcpy(attribute->values, values, size * count);
    return 0;
}

static struct attribute *find(struct descriptor *descriptor, uint32_t name) {
    for (int i = 0; i < descriptor->attributes; i++)
        if (descriptor->attribute[i].name == name) return &descriptor->attribute[i];
    return NULL;
}

uint32_t cudnnBackendGetAttribute(struct descriptor *descriptor, uint32_t name, uint32_t type, int64_t room,
                                  int64_t *count, void *values) {
    (void)type;
    struct descriptor **descriptors = values;
    switch (name) {
    case 202: /* ENGINEHEUR_RESULTS */
        *count = 2;
        for (int i = 0; i < room; i++) {
            descriptors[i]->number = i;
            descriptors[i]->graph = *(struct descriptor **)find(descriptor, 201)->values;
        }
        return 0;
    case 300: /* ENGINECFG_ENGINE */
        *count = 1;
        descriptors[0]->number = descriptor->number;
        return 0;
    case 402: /* EXECUTION_PLAN_WORKSPACE_SIZE */
        *count = 1;
        *(int64_t *)values = 512;
        return 0;
    case 1301: /* ENGINE_GLOBAL_INDEX */
        *count = 1;
        *(int64_t *)values = descriptor->number;
        return 0;
#ifdef NOTE /* of the second engine */
    case 1303: /* ENGINE_NUMERICAL_NOTE */
        *count = descriptor->number == 1 ? 1 : 0;
        if (*count) *(uint32_t *)values = NOTE;
        return 0;
#endif
    default: /* notes: none */
        *count = 0;
        return 0;
    }
}

static _Thread_local char *to, *end;

#define TELL(...) (to += snprintf(to, end - to, __VA_ARGS__))

/* Attributes in the order in which they were set: a tensor is its id, ~ if it is virtual and ! if it is
 * a value on the host. */
static void tell(struct descriptor *descriptor) {
    if (descriptor->kind == TENSOR) {
        struct attribute *virtual = find(descriptor, 907), *by_value = find(descriptor, 908);
        TELL("#%d", (int)*(int64_t *)find(descriptor, 906)->values);
        if (virtual && *virtual->values) TELL("~");
        if (by_value && *by_value->values) TELL("!");
        return;
    }
    TELL("%u{", descriptor->kind);
    for (int i = 0; i < descriptor->attributes; i++) {
        struct attribute *attribute = &descriptor->attribute[i];
        TELL(i ? " %u=" : "%u=", attribute->name);
        for (int j = 0; j < attribute->count; j++) {
            if (j) TELL(",");
            if (attribute->type == TYPE_BACKEND_DESCRIPTOR) tell(((struct descriptor **)attribute->values)[j]);
            else if (attribute->type == TYPE_INT64) TELL("%d", (int)((int64_t *)attribute->values)[j]);
            else if (attribute->type == TYPE_FLOAT) TELL("%g", ((float *)attribute->values)[j]);
            else TELL("%d", ((int32_t *)attribute->values)[j]);
        }
    }
    TELL("}");
}

uint32_t cudnnBackendExecute(struct handle *handle, struct descriptor *plan, struct descriptor *pack) {
#ifdef EXECUTION_STATUS
    return EXECUTION_STATUS;
#endif
    struct attribute *planned_for = find(plan, 400), *config = find(plan, 401);
    struct attribute *ids = find(pack, 1000), *pointers = find(pack, 1001), *workspace = find(pack, 1003);
    if (!planned_for || !config || !ids || !pointers || !workspace) return 2000;
    if (plan->kind != EXECUTION_PLAN || pack->kind != VARIANT_PACK || ids->count != pointers->count ||
        *(struct handle **)planned_for->values != handle) {
        snprintf(message, sizeof message, "wrong plan, pack or handle");
        return 2012;
    }
    struct descriptor *engine = *(struct descriptor **)config->values;
    to = message;
    end = message + sizeof message;
    TELL("stream %p, engine %d", handle->stream, (int)engine->number);
    for (int i = 0; i < ids->count; i++) {
        int64_t id = ((int64_t *)ids->values)[i];
        void *pointer = ((void **)pointers->values)[i];
        /* The fifth of attention's tensors is a number on the host. */
        if (id == 5) TELL(", 5 -> %g", *(float *)pointer);
        else TELL(", %d at %p", (int)id, pointer);
    }
    TELL(", workspace %p", *(void **)workspace->values);
    struct attribute *operations = find(engine->graph, 801);
    for (int i = 0; i < operations->count; i++) {
        TELL(" | ");
        tell(((struct descriptor **)operations->values)[i]);
    }
    return handle->stream ? 5001 : 0;
}
