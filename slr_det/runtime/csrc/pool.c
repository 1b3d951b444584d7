/* A few threads that wait for work: spinning for a moment, because a network's layers follow closely, then asleep. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#include "internal.h"

/* Rounds of waiting without sleep, some 20 to 50 microseconds. */
enum { SPINS = 4000 };

struct slr_pool {
    int threads; /* the caller included */
    pthread_t *others;
    pid_t process; /* threads do not survive a fork */
    pthread_mutex_t lock;
    pthread_cond_t wake;
    atomic_int round;  /* raised for every new work */
    atomic_int asleep; /* workers at the condition */
    atomic_int busy;   /* workers that have not finished this round */
    atomic_int stop;
    atomic_llong next;
    int64_t count;
    void (*task)(void *context, int64_t index);
    void *context;
};

static inline void pause_briefly(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void take(slr_pool *pool)
{
    for (;;) {
        const int64_t i = atomic_fetch_add_explicit(&pool->next, 1, memory_order_relaxed);
        if (i >= pool->count)
            return;
        pool->task(pool->context, i);
    }
}

static void *work(void *argument)
{
    slr_pool *pool = argument;
    int seen = 0;
    for (;;) {
        for (int i = 0; i < SPINS && atomic_load_explicit(&pool->round, memory_order_acquire) == seen; i++)
            pause_briefly();
        if (atomic_load(&pool->round) == seen) {
            pthread_mutex_lock(&pool->lock);
            atomic_fetch_add(&pool->asleep, 1);
            while (atomic_load(&pool->round) == seen)
                pthread_cond_wait(&pool->wake, &pool->lock);
            atomic_fetch_sub(&pool->asleep, 1);
            pthread_mutex_unlock(&pool->lock);
        }
        seen = atomic_load(&pool->round);
        if (atomic_load(&pool->stop))
            return NULL;
        take(pool);
        atomic_fetch_sub_explicit(&pool->busy, 1, memory_order_release);
    }
}

static void start_round(slr_pool *pool)
{
    atomic_fetch_add(&pool->round, 1);
    /* A worker that is about to sleep holds the lock from before it looks at the round until it waits. */
    if (atomic_load(&pool->asleep)) {
        pthread_mutex_lock(&pool->lock);
        pthread_cond_broadcast(&pool->wake);
        pthread_mutex_unlock(&pool->lock);
    }
}

slr_pool *slr_pool_new(int threads)
{
    if (threads < 1)
        threads = 1;
    slr_pool *pool = calloc(1, sizeof *pool);
    if (!pool)
        return NULL;
    pool->others = calloc((size_t)threads, sizeof *pool->others);
    if (!pool->others || pthread_mutex_init(&pool->lock, NULL)) {
        free(pool->others);
        free(pool);
        return NULL;
    }
    pthread_cond_init(&pool->wake, NULL);
    pool->process = getpid();
    pool->threads = 1;
    /* Fewer than asked for where the system gives no more. */
    while (pool->threads < threads && pthread_create(&pool->others[pool->threads - 1], NULL, work, pool) == 0)
        pool->threads++;
    return pool;
}

int slr_pool_threads(const slr_pool *pool)
{
    return pool ? pool->threads : 1;
}

void slr_pool_free(slr_pool *pool)
{
    if (!pool)
        return;
    if (pool->process == getpid()) {
        atomic_store(&pool->stop, 1);
        start_round(pool);
        for (int i = 0; i + 1 < pool->threads; i++)
            pthread_join(pool->others[i], NULL);
        pthread_cond_destroy(&pool->wake);
        pthread_mutex_destroy(&pool->lock);
    }
    free(pool->others);
    free(pool);
}

void slr_pool_each(slr_pool *pool, int64_t count, void (*task)(void *context, int64_t index), void *context)
{
    if (!pool || pool->threads == 1 || count < 2 || pool->process != getpid()) {
        for (int64_t i = 0; i < count; i++)
            task(context, i);
        return;
    }
    pool->task = task;
    pool->context = context;
    pool->count = count;
    atomic_store_explicit(&pool->next, 0, memory_order_relaxed);
    atomic_store(&pool->busy, pool->threads - 1);
    start_round(pool);
    take(pool);
    /* A worker that lost its core to another process gets ours. */
    for (int i = 0; atomic_load_explicit(&pool->busy, memory_order_acquire); i++) {
        if (i < SPINS)
            pause_briefly();
        else
            sched_yield();
    }
}
