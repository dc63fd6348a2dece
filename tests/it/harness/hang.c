/* A disk that hangs, loaded before libc (ld.so(8), LD_PRELOAD): no sync returns while the file that
   HANG_WHILE names is there. */

#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

static void hang(void) {
    const char *file = getenv("HANG_WHILE");
    while (file != NULL && access(file, F_OK) == 0) {
        usleep(10000);
    }
}

int fsync(int fd) {
    hang();
    return (int)syscall(SYS_fsync, fd);
}

int fdatasync(int fd) {
    hang();
    return (int)syscall(SYS_fdatasync, fd);
}
