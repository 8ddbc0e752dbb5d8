#include "threads.h"

static int threads_wanted = 1;

Team &team() {
    // Never deleted: its threads live as long as the process.
    static Team *the_team = new Team(threads_wanted);
    return *the_team;
}

extern "C" void textgen_use_threads(int threads) { threads_wanted = threads; }
