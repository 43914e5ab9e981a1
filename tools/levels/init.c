/* The only program of the emulated machine: takes jobs from its disk, runs them, writes what they gave.
 *
 * It talks to the disk by port input and output, so that the kernel needs no driver. Sector 0 has the request, written
 * by the host: u32 magic, u32 number, u64 sector of the reply's body. The request's body starts at sector 8 and is a
 * row of records: u32 kind, u32 mode, u32 length of the name, u32 zero, u64 length of the data, name, data. Kinds: a
 * file, a symbolic link, an argument of the command, an output that is wanted, the end. Sector 1 has the reply: u32
 * magic, u32 number, i32 status as of wait, u32 zero. Its body is per output u64 length (or ~0: no such file), data;
 * the first is what the command printed.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/io.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SECTOR = 512, AT_ONCE = 128, MAGIC = 0x434d4158, REQUEST = 8, MOST = 64 };
enum { END, FILE_, LINK, ARGUMENT, OUTPUT };
enum { DATA = 0x1f0, COUNT = 0x1f2, LBA = 0x1f3, DEVICE = 0x1f6, COMMAND = 0x1f7, CONTROL = 0x3f6 };

typedef struct { uint32_t kind, mode, name_length, zero; uint64_t length; } Record;

static unsigned char buffer[AT_ONCE * SECTOR];
static uint64_t next_sector;
static size_t filled, used;

static void die(const char* what) {
  printf("init: %s: %s\n", what, strerror(errno));
  fflush(stdout);
  for (;;) pause();
}

static void wait_for_data(void) {
  for (;;) {
    unsigned char status = inb(COMMAND);
    if (status & 0x21) die("the disk failed");
    if (!(status & 0x80) && (status & 8)) return;
  }
}

/* 28 bits of address: disks up to 128 GiB */
static void transfer(uint64_t sector, int sectors, int writing) {
  while (inb(COMMAND) & 0x80) {}
  outb(0xe0 | (sector >> 24 & 15), DEVICE);
  outb(sectors, COUNT);
  for (int i = 0; i < 3; ++i) outb(sector >> 8 * i & 255, LBA + i);
  outb(writing ? 0x30 : 0x20, COMMAND);
  for (int i = 0; i < sectors; ++i) {
    wait_for_data();
    if (writing) outsw(DATA, buffer + i * SECTOR, SECTOR / 2);
    else insw(DATA, buffer + i * SECTOR, SECTOR / 2);
  }
  while (inb(COMMAND) & 0x80) {}
}

static size_t get_some(void* to, size_t wanted) {
  if (used == filled) {
    transfer(next_sector, AT_ONCE, 0);
    next_sector += AT_ONCE;
    used = 0;
    filled = sizeof buffer;
  }
  size_t got = filled - used < wanted ? filled - used : wanted;
  memcpy(to, buffer + used, got);
  used += got;
  return got;
}

static void get(void* to, size_t wanted) {
  for (size_t done = 0; done < wanted;) done += get_some((char*)to + done, wanted - done);
}

static void put(const void* from, size_t length) {
  for (size_t done = 0; done < length;) {
    size_t part = sizeof buffer - filled < length - done ? sizeof buffer - filled : length - done;
    memcpy(buffer + filled, (const char*)from + done, part);
    filled += part;
    done += part;
    if (filled == sizeof buffer) {
      transfer(next_sector, AT_ONCE, 1);
      next_sector += AT_ONCE;
      filled = 0;
    }
  }
}

static void parents(char* path) {
  for (char* slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
    *slash = 0;
    mkdir(path, 0755);
    *slash = '/';
  }
}

static void take_file(char* path, const Record* record) {
  static char part[65536];
  unlink(path);
  int file = open(path, O_CREAT | O_WRONLY | O_TRUNC, record->mode);
  if (file < 0) die(path);
  for (uint64_t left = record->length; left;) {
    size_t got = get_some(part, left < sizeof part ? left : sizeof part);
    if (write(file, part, got) != (ssize_t)got) die(path);
    left -= got;
  }
  close(file);
}

static int run(char** arguments) {
  pid_t child = fork();
  if (child < 0) die("fork");
  if (!child) {
    int file = open("/printed", O_CREAT | O_WRONLY | O_TRUNC, 0644);
    int nothing = open("/dev/null", O_RDONLY);
    dup2(nothing, 0);
    dup2(file, 1);
    dup2(file, 2);
    execv(arguments[0], arguments);
    dprintf(2, "%s: %s\n", arguments[0], strerror(errno));
    _exit(127);
  }
  int status = 0;
  while (waitpid(child, &status, 0) != child) {}
  return status;
}

static void give_file(const char* path) {
  uint64_t length = 0, room = 1 << 16;
  char* data = malloc(room);
  int file = open(path, O_RDONLY);
  if (file < 0) {
    length = ~(uint64_t)0;
    put(&length, sizeof length);
    free(data);
    return;
  }
  for (ssize_t got; (got = read(file, data + length, room - length)) > 0;) {
    length += got;
    if (length == room && !(data = realloc(data, room *= 2))) die("memory");
  }
  close(file);
  put(&length, sizeof length);
  put(data, length);
  free(data);
}

static int serve(char** outputs, int* count) {
  char* arguments[MOST + 1] = {0};
  int number = 0;
  Record record;
  for (;;) {
    get(&record, sizeof record);
    if (record.kind == END) break;
    char* name = calloc(record.name_length + 1, 1);
    get(name, record.name_length);
    if (record.kind == ARGUMENT && number < MOST) arguments[number++] = name;
    else if (record.kind == OUTPUT && *count < MOST) outputs[(*count)++] = name;
    else if (record.kind == FILE_ || record.kind == LINK) {
      parents(name);
      if (record.kind == FILE_) take_file(name, &record);
      else {
        char* to = calloc(record.length + 1, 1);
        get(to, record.length);
        unlink(name);
        if (symlink(to, name)) die(name);
        free(to);
      }
      free(name);
    } else die("a record that is not known");
  }
  return number ? run(arguments) : 0;
}

int main(void) {
  setvbuf(stdout, NULL, _IONBF, 0);
  mkdir("/proc", 0755);
  mkdir("/dev", 0755);
  mkdir("/sys", 0755);
  mkdir("/tmp", 01777);
  if (mount("proc", "/proc", "proc", 0, NULL) || mount("sys", "/sys", "sysfs", 0, NULL)) die("mount");
  mount("dev", "/dev", "devtmpfs", 0, NULL);
  setenv("HOME", "/tmp", 1);
  setenv("LD_LIBRARY_PATH", "/lib", 1);
  if (iopl(3)) die("iopl");
  outb(2, CONTROL); /* no interrupts */
  puts("init: ready");
  for (uint32_t last = 0;;) {
    struct { uint32_t magic, number; uint64_t reply; } request;
    transfer(0, 1, 0);
    memcpy(&request, buffer, sizeof request);
    if (request.magic != MAGIC || request.number == last) {
      usleep(10000);
      continue;
    }
    last = request.number;
    char *outputs[MOST] = {"/printed"};
    int count = 1;
    next_sector = REQUEST;
    used = filled = 0;
    unlink("/printed");
    int32_t status = serve(outputs, &count);
    next_sector = request.reply;
    filled = 0;
    for (int i = 0; i < count; ++i) give_file(outputs[i]);
    transfer(next_sector, AT_ONCE, 1);
    memset(buffer, 0, SECTOR);
    memcpy(buffer, (uint32_t[]){MAGIC, last, (uint32_t)status, 0}, 16);
    transfer(1, 1, 1);
  }
}
