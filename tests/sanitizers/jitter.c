// Preloaded: threads rest, or let others go first, at random moments around locks and conditions.
// Only this shows a sanitizer more than the few interleavings that a quiet machine has.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <time.h>

static _Atomic uint64_t seed;  // 0: no jitter
static _Atomic uint64_t rests, threads;
static __thread uint64_t state, state_of;

void jitter_start(uint64_t new_seed) { atomic_store(&seed, new_seed); }
uint64_t jitter_rests(void) { return atomic_load(&rests); }

static void rest(void) {
    const uint64_t current = atomic_load(&seed);
    if (current == 0) return;
    if (state_of != current) {  // every thread has numbers of its own
        state_of = current;
        state = current * 0x9E3779B97F4A7C15u + atomic_fetch_add(&threads, 1) * 0xBF58476D1CE4E5B9u;
        state |= 1;
    }
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    if (state % 8 != 0) return;
    atomic_fetch_add(&rests, 1);
    if (state >> 32 & 1) {
        sched_yield();
    } else {
        const struct timespec time = {0, (long)(state >> 40 & 0xffff)};  // up to 65 us
        nanosleep(&time, NULL);
    }
}

#define WRAP(NAME, TYPES, ARGUMENTS)                             \
    int NAME TYPES {                                             \
        static int(*_Atomic next) TYPES;                         \
        if (next == NULL) next = dlsym(RTLD_NEXT, #NAME);        \
        rest();                                                  \
        const int status = next ARGUMENTS;                       \
        rest();                                                  \
        return status;                                           \
    }

WRAP(pthread_mutex_lock, (pthread_mutex_t * mutex), (mutex))
WRAP(pthread_mutex_unlock, (pthread_mutex_t * mutex), (mutex))
WRAP(pthread_cond_wait, (pthread_cond_t * condition, pthread_mutex_t* mutex), (condition, mutex))
WRAP(pthread_cond_signal, (pthread_cond_t * condition), (condition))
WRAP(pthread_cond_broadcast, (pthread_cond_t * condition), (condition))
