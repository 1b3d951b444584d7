/* A few threads that wait for work: spinning for a moment, because a network's layers follow closely, then asleep. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "internal.h"

/* Rounds of waiting without sleep: a pause takes 5 to 50 nanoseconds, by the processor. */
enum { SPINS = 4000 };

/* The part of a round that is a thread's own, alone on its cache line; who has finished his takes from the others'. */
typedef struct {
    _Alignas(64) atomic_llong next;
    int64_t end;
} share;

typedef struct {
    slr_pool *pool;
    int number;
} worker;

struct slr_pool {
    int threads; /* the caller included, who is number 0 */
    pthread_t *others;
    worker *workers;
    share *shares;
    pid_t process; /* threads do not survive a fork */
    pthread_mutex_t lock;
    pthread_cond_t wake;
    atomic_int round;  /* raised for every new work */
    atomic_int asleep; /* workers at the condition */
    atomic_int busy;   /* workers that have not finished this round */
    atomic_int stop;
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

/*
 * Neighbouring work is a thread's own, layer after layer: rows that one core has written lie in its cache when the next
 * layer reads them.
 */
static void take(slr_pool *pool, int number)
{
    for (int t = 0; t < pool->threads; t++) {
        share *s = &pool->shares[(number + t) % pool->threads];
        for (;;) {
            const int64_t i = atomic_fetch_add_explicit(&s->next, 1, memory_order_relaxed);
            if (i >= s->end)
                break;
            pool->task(pool->context, i);
        }
    }
}

static void *work(void *argument)
{
    const worker *me = argument;
    slr_pool *pool = me->pool;
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
        take(pool, me->number);
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

static void release(slr_pool *pool)
{
    free(pool->others);
    free(pool->workers);
    free(pool->shares);
    free(pool);
}

slr_pool *slr_pool_new(int threads)
{
    if (threads < 1)
        threads = 1;
    slr_pool *pool = calloc(1, sizeof *pool);
    if (!pool)
        return NULL;
    pool->others = calloc((size_t)threads, sizeof *pool->others);
    pool->workers = calloc((size_t)threads, sizeof *pool->workers);
    pool->shares = aligned_alloc(64, (size_t)threads * sizeof *pool->shares);
    if (!pool->others || !pool->workers || !pool->shares || pthread_mutex_init(&pool->lock, NULL)) {
        release(pool);
        return NULL;
    }
    memset(pool->shares, 0, (size_t)threads * sizeof *pool->shares);
    pthread_cond_init(&pool->wake, NULL);
    pool->process = getpid();
    pool->threads = 1;
    /* Fewer than asked for where the system gives no more. */
    for (int i = 1; i < threads; i++) {
        pool->workers[i] = (worker){pool, i};
        if (pthread_create(&pool->others[i], NULL, work, &pool->workers[i]))
            break;
        pool->threads = i + 1;
    }
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
        for (int i = 1; i < pool->threads; i++)
            pthread_join(pool->others[i], NULL);
        pthread_cond_destroy(&pool->wake);
        pthread_mutex_destroy(&pool->lock);
    }
    release(pool);
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
    for (int t = 0; t < pool->threads; t++) {
        atomic_store_explicit(&pool->shares[t].next, count * t / pool->threads, memory_order_relaxed);
        pool->shares[t].end = count * (t + 1) / pool->threads;
    }
    atomic_store(&pool->busy, pool->threads - 1);
    start_round(pool);
    take(pool, 0);
    /* A worker that lost its core to another process gets ours. */
    for (int i = 0; atomic_load_explicit(&pool->busy, memory_order_acquire); i++) {
        if (i < SPINS)
            pause_briefly();
        else
            sched_yield();
    }
}
