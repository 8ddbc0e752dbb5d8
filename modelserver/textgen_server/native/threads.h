// A team of threads that share the pieces of one job after another.
//
// Unlike OpenMP's, a job does not wait for a thread that has not begun: where another process holds a core, the threads
// that run do all the pieces. Idle threads spin for a moment, because the next job usually follows at once, then sleep.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

#if defined(__x86_64__)
inline void pause_briefly() { __builtin_ia32_pause(); }
#else
inline void pause_briefly() {}
#endif

class Team {
  public:
    explicit Team(int threads) {
        for (int i = 1; i < threads; ++i) std::thread([this] { help(); }).detach();
    }

    // Calls work(piece) for each piece from 0 to `pieces`, on as many threads as are free. Returns when all are done.
    template <typename Work>
    void share(long pieces, const Work &work) {
        std::unique_lock<std::mutex> mine(owner, std::try_to_lock);
        if (pieces == 1 || !mine.owns_lock()) {  // another thread of the process has the team
            for (long piece = 0; piece < pieces; ++piece) work(piece);
            return;
        }
        job = &work;
        call = [](const void *any, long piece) { (*static_cast<const Work *>(any))(piece); };
        count = pieces;
        next.store(0, std::memory_order_relaxed);
        const uint64_t opened = (state.load(std::memory_order_relaxed) / JOB + 1) * JOB + OPEN;
        state.store(opened, std::memory_order_release);
        state.notify_all();
        take_pieces();
        state.fetch_and(~uint64_t{OPEN}, std::memory_order_acq_rel);
        while (state.load(std::memory_order_acquire) % OPEN) pause_briefly();
    }

  private:
    // The state: number of the job, whether it takes helpers, how many are at work.
    static constexpr uint64_t OPEN = 1 << 16, JOB = OPEN << 1;
    static constexpr int SPINS = 2000;

    std::mutex owner;
    std::atomic<uint64_t> state{0};
    std::atomic<long> next{0};
    const void *job = nullptr;
    void (*call)(const void *, long) = nullptr;
    long count = 0;

    void take_pieces() {
        for (long piece; (piece = next.fetch_add(1, std::memory_order_relaxed)) < count;) call(job, piece);
    }

    void help() {
        uint64_t done = 0;  // the last job that this thread has looked at
        for (;;) {
            uint64_t now = wait_for_job(done);
            while (now & OPEN && now / JOB != done / JOB) {
                if (state.compare_exchange_weak(now, now + 1, std::memory_order_acq_rel)) {
                    take_pieces();
                    state.fetch_sub(1, std::memory_order_acq_rel);
                    break;
                }
            }
            done = now;
        }
    }

    uint64_t wait_for_job(uint64_t done) {
        for (int i = 0; i < SPINS; ++i) {
            const uint64_t now = state.load(std::memory_order_acquire);
            if (now & OPEN && now / JOB != done / JOB) return now;
            pause_briefly();
        }
        const uint64_t now = state.load(std::memory_order_acquire);
        if (!(now & OPEN) || now / JOB == done / JOB) state.wait(now, std::memory_order_acquire);
        return state.load(std::memory_order_acquire);
    }
};

// The process's team. Made by the first job.
Team &team();
