/* Calls one compiled kernel on the arrays of a file and writes them back: what TVM's runtime would do, without it.
 *
 * usage: driver ARRAYS RESULT, both: u32 count, then per array u8 code, u8 bits, u16 lanes, u32 ndim, i64 shape[ndim],
 * the elements.
 */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
  void* data;
  struct { int32_t type, id; } device;
  int32_t ndim;
  struct { uint8_t code, bits; uint16_t lanes; } dtype;
  int64_t *shape, *strides;
  uint64_t byte_offset;
} Tensor;

typedef struct { int32_t type_index; uint32_t padding; union { int64_t number; void* pointer; } value; } Any;
typedef struct { void* sync; int32_t num_task; } Group;
typedef int (*Lambda)(int task, Group* group, void* data);

enum { TENSOR_POINTER = 7, MOST = 32, TASKS = 3 };

typedef struct { Lambda lambda; Group* group; void* data; int task, status; } Task;

static void* run_task(void* argument) {
  Task* task = argument;
  task->status = task->lambda(task->task, task->group, task->data);
  return NULL;
}

/* more than one task, so that a range that is cut wrongly shows; threads, as tasks may wait for each other */
static int launch(Lambda lambda, void* data, int wanted) {
  pthread_barrier_t barrier;
  Group group = {&barrier, wanted > 0 ? wanted : TASKS};
  pthread_t threads[MOST];
  Task tasks[MOST];
  int status = 0;
  if (group.num_task > MOST || pthread_barrier_init(&barrier, NULL, group.num_task)) return -1;
  for (int i = 0; i < group.num_task; ++i) {
    tasks[i] = (Task){lambda, &group, data, i, 0};
    if (pthread_create(&threads[i], NULL, run_task, &tasks[i])) exit(5);
  }
  for (int i = 0; i < group.num_task; ++i) {
    pthread_join(threads[i], NULL);
    if (tasks[i].status) status = tasks[i].status;
  }
  pthread_barrier_destroy(&barrier);
  return status;
}

static int meet(int task, Group* group) {
  int status = pthread_barrier_wait(group->sync);
  return status == PTHREAD_BARRIER_SERIAL_THREAD ? 0 : status;
}

static void* take(int device, int id, uint64_t nbytes, int code, int bits) {
  return aligned_alloc(64, (nbytes + 63) / 64 * 64);
}

static int give_back(int device, int id, void* memory) {
  free(memory);
  return 0;
}

void TVMFFIErrorSetRaisedFromCStrParts(const char* kind, const char** parts, int32_t count) {
  fprintf(stderr, "%s: ", kind);
  for (int32_t i = 0; i < count; ++i) fputs(parts[i], stderr);
  fputc('\n', stderr);
}

extern void* __TVMBackendParallelLaunch __attribute__((weak));
extern void* __TVMBackendParallelBarrier __attribute__((weak));
extern void* __TVMBackendAllocWorkspace __attribute__((weak));
extern void* __TVMBackendFreeWorkspace __attribute__((weak));
extern int KERNEL(void* self, const Any* arguments, int32_t count, Any* result);

static void need(size_t got, size_t wanted) {
  if (got != wanted) exit(3);
}

int main(int argc, char** argv) {
  FILE* file = fopen(argv[1], "rb");
  uint32_t count, ndim;
  Tensor tensors[MOST];
  Any arguments[MOST], result = {0};
  size_t nbytes[MOST];
  if (!file) return 3;
  need(fread(&count, 4, 1, file), 1);
  if (count > MOST) return 3;
  for (uint32_t i = 0; i < count; ++i) {
    Tensor* tensor = memset(&tensors[i], 0, sizeof(Tensor));
    tensor->device.type = 1;
    need(fread(&tensor->dtype, 4, 1, file), 1);
    need(fread(&ndim, 4, 1, file), 1);
    tensor->ndim = (int32_t)ndim;
    tensor->shape = calloc(2 * ndim + 1, 8);
    tensor->strides = tensor->shape + ndim;
    need(fread(tensor->shape, 8, ndim, file), ndim);
    int64_t size = 1;
    for (int d = (int)ndim - 1; d >= 0; --d) {
      tensor->strides[d] = size;
      size *= tensor->shape[d];
    }
    nbytes[i] = size * tensor->dtype.bits / 8;
    tensor->data = take(1, 0, nbytes[i] + 64, 0, 0);
    need(fread(tensor->data, 1, nbytes[i], file), nbytes[i]);
    arguments[i] = (Any){.type_index = TENSOR_POINTER, .value.pointer = tensor};
  }
  fclose(file);
  if (&__TVMBackendParallelLaunch) __TVMBackendParallelLaunch = (void*)launch;
  if (&__TVMBackendParallelBarrier) __TVMBackendParallelBarrier = (void*)meet;
  if (&__TVMBackendAllocWorkspace) __TVMBackendAllocWorkspace = (void*)take;
  if (&__TVMBackendFreeWorkspace) __TVMBackendFreeWorkspace = (void*)give_back;
  int status = KERNEL(NULL, arguments, (int32_t)count, &result);
  if (status) return 4;
  file = fopen(argv[2], "wb");
  if (!file) return 3;
  for (uint32_t i = 0; i < count; ++i) need(fwrite(tensors[i].data, 1, nbytes[i], file), nbytes[i]);
  return fclose(file) ? 3 : 0;
}
