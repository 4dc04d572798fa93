/* Preloaded: counts the calls that write below a folder, and fails one of them or dies in it. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

struct faults {
  long calls;  /* so far */
  long first;  /* the call that fails first, counted from 1; 0 is none */
  long last;   /* the call that fails last */
  long fault;  /* its errno; 0: the process is killed instead, half-way through what it writes */
  long mirror; /* count calls on TensorBoard's files, or all the others: its thread has no order */
};

static struct faults* faults;
static char folder[PATH_MAX];

void arm(struct faults* shared, const char* below) {
  strncpy(folder, below, sizeof folder - 1);
  faults = shared;
}

enum { PASS = 0, DIE = -1 }; /* else an errno */

static int at_path(const char* path) {
  if (faults == NULL || strncmp(path, folder, strlen(folder)) != 0) return PASS;
  if ((strstr(path, "/tensorboard/") != NULL) != faults->mirror) return PASS;
  const long call = __atomic_add_fetch(&faults->calls, 1, __ATOMIC_SEQ_CST);
  if (call < faults->first || call > faults->last) return PASS;
  return faults->fault != 0 ? (int)faults->fault : DIE;
}

static int at_file(int descriptor) {
  char link[64], path[PATH_MAX];
  if (faults == NULL) return PASS;
  snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
  const ssize_t length = readlink(link, path, sizeof path - 1);
  if (length < 0) return PASS;
  path[length] = 0;
  return at_path(path);
}

/* FAULTY(result, name, parameters, arguments, what happens here, the half that is done at a kill) */
#define FAULTY(type, name, parameters, arguments, met, half)         \
  type name parameters {                                             \
    static type(*real) parameters;                                   \
    if (real == NULL) real = (type(*) parameters)dlsym(RTLD_NEXT, #name); \
    const int what = met;                                            \
    if (what == DIE) {                                               \
      half;                                                          \
      kill(getpid(), SIGKILL);                                       \
    }                                                                \
    if (what > 0) {                                                  \
      errno = what;                                                  \
      return FAILED_##name;                                          \
    }                                                                \
    return real arguments;                                           \
  }

#define FAILED_write -1
#define FAILED_pwrite -1
#define FAILED_pwrite64 -1
#define FAILED_writev -1
#define FAILED_fwrite 0
#define FAILED_sendfile -1
#define FAILED_sendfile64 -1
#define FAILED_copy_file_range -1
#define FAILED_ftruncate -1
#define FAILED_ftruncate64 -1
#define FAILED_fsync -1
#define FAILED_fdatasync -1
#define FAILED_rename -1
#define FAILED_renameat -1
#define FAILED_renameat2 -1

FAULTY(ssize_t, write, (int fd, const void* from, size_t size), (fd, from, size), at_file(fd),
       (void)!real(fd, from, size / 2))
FAULTY(ssize_t, pwrite, (int fd, const void* from, size_t size, off_t at), (fd, from, size, at),
       at_file(fd), (void)!real(fd, from, size / 2, at))
FAULTY(ssize_t, pwrite64, (int fd, const void* from, size_t size, off64_t at), (fd, from, size, at),
       at_file(fd), (void)!real(fd, from, size / 2, at))
FAULTY(ssize_t, writev, (int fd, const struct iovec* from, int count), (fd, from, count),
       at_file(fd), (void)!real(fd, from, count / 2))
FAULTY(size_t, fwrite, (const void* from, size_t size, size_t count, FILE* file),
       (from, size, count, file), at_file(fileno(file)),
       ((void)real(from, size, count / 2, file), fflush(file)))
FAULTY(ssize_t, sendfile, (int out, int in, off_t* at, size_t size), (out, in, at, size),
       at_file(out), (void)!real(out, in, at, size / 2))
FAULTY(ssize_t, sendfile64, (int out, int in, off64_t* at, size_t size), (out, in, at, size),
       at_file(out), (void)!real(out, in, at, size / 2))
FAULTY(ssize_t, copy_file_range,
       (int in, off64_t* from, int out, off64_t* to, size_t size, unsigned flags),
       (in, from, out, to, size, flags), at_file(out),
       (void)!real(in, from, out, to, size / 2, flags))
FAULTY(int, ftruncate, (int fd, off_t size), (fd, size), at_file(fd), )
FAULTY(int, ftruncate64, (int fd, off64_t size), (fd, size), at_file(fd), )
FAULTY(int, fsync, (int fd), (fd), at_file(fd), )
FAULTY(int, fdatasync, (int fd), (fd), at_file(fd), )
FAULTY(int, rename, (const char* from, const char* to), (from, to), at_path(to), )
FAULTY(int, renameat, (int in, const char* from, int out, const char* to), (in, from, out, to),
       at_path(to), )
FAULTY(int, renameat2, (int in, const char* from, int out, const char* to, unsigned flags),
       (in, from, out, to, flags), at_path(to), )
