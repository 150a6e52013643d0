/* A mixture of GET and SET from many connections in one thread, for scripts/bench: redis-benchmark cannot mix, cannot
 * keep to a rate, and does not know the 99.9th percentile.
 *
 *   load [-e] [-w REPLICAS] PLACES CONNECTIONS PIPELINE GET_PERCENT KEYS VALUE_BYTES SECONDS RATE
 *
 * PLACES is PORT[@FILE],...: the connections take turns among them. Keys are key:%012d of 0..KEYS-1, at random, or of
 * the numbers in FILE, one a line, for the connections to that place. RATE 0: every connection sends again as soon as
 * it is answered. Else so many commands a second are due, evenly; a latency counts from when its command was due, so
 * that a stall counts for all that it held up.
 *
 *   -w  behind each turn of a connection goes WAIT REPLICAS 0, which is not counted as a command
 *   -e  an error or a lost connection is counted and the first one shown; without it the load ends, exit code 1
 *
 * Ends after SECONDS or at SIGTERM and prints one line:
 *
 *   commands, commands/s, p50, p99, p99.9 and longest latency in microseconds, part of a core that it used itself,
 *   errors
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define CONNECTIONS_MAX 1000
#define PLACES_MAX 16
#define REPLY_BYTES_MAX (1 << 16)
/* Latencies in buckets of less than 2 %: 64 to each power of two. */
#define FINE 64

struct place {
    int port;
    uint64_t *keys, count;          /* none: any key */
};

struct connection {
    int fd, place, waiting;                /* replies that are missing */
    int64_t sent_ns, skip;          /* bytes of a value that are still to come */
    char line[64];
    int filled;
};

static struct place places[PLACES_MAX];
static int place_count;
static struct connection all[CONNECTIONS_MAX];
static int idle[CONNECTIONS_MAX], idles;
static uint64_t buckets[64 * FINE], commands, state = 88172645463325252ULL;
static int64_t longest_ns;
static uint64_t errors;
static int pipeline, get_percent, value_bytes, wait_replicas, goes_on, poller;
static uint64_t keys;
static char *out, *value;
static volatile sig_atomic_t stopped;

static void stop(int signal) { (void)signal; stopped = 1; }

static int64_t now_ns(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec * 1000000000LL + at.tv_nsec;
}

static uint64_t random_number(void) {
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return state;
}

static void die(const char *what) {
    fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
    exit(1);
}

static int connect_to(int port) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM, 0), yes = 1;
    if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof to) != 0) die("connect");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    return fd;
}

static void open_connection(int number) {
    struct connection *one = &all[number];
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = number};
    *one = (struct connection){.fd = connect_to(places[one->place].port), .place = one->place};
    epoll_ctl(poller, EPOLL_CTL_ADD, one->fd, &event);
    idle[idles++] = number;
}

static void count_error(const char *what) {
    if (errors++) return;
    char at[16];
    time_t now = time(NULL);
    strftime(at, sizeof at, "%H:%M:%S", gmtime(&now));
    fprintf(stderr, "load: the first error, at %s UTC: %s\n", at, what);
}

/* The connection is gone: that is an error, and another takes its place. */
static void lose(int number, const char *what) {
    if (!goes_on) die(what);
    count_error(strerror(errno));
    close(all[number].fd);
    open_connection(number);
}

static int bucket(uint64_t us) {
    if (us < FINE) return us;
    int power = 63 - __builtin_clzll(us);
    return (power - 5) * FINE + (us >> (power - 6)) - FINE;
}

static double bucket_us(int at) {
    if (at < FINE) return at;
    int power = at / FINE + 5;
    return (double)(at % FINE + FINE) * (1ULL << (power - 6));
}

static double percentile(double part) {
    uint64_t seen = 0, total = 0;
    for (int at = 0; at < 64 * FINE; at++) total += buckets[at];
    for (int at = 0; at < 64 * FINE; at++)
        if ((seen += buckets[at]) >= part * total && seen) return bucket_us(at);
    return 0;
}

/* Sends what is one turn of a connection. */
static void send_some(int number, int64_t due_ns) {
    struct connection *one = &all[number];
    struct place *place = &places[one->place];
    size_t length = 0;
    for (int n = 0; n < pipeline; n++) {
        unsigned long long key = place->keys ? place->keys[random_number() % place->count] : random_number() % keys;
        if ((int)(random_number() % 100) < get_percent)
            length += sprintf(out + length, "*2\r\n$3\r\nGET\r\n$16\r\nkey:%012llu\r\n", key);
        else
            length += sprintf(out + length, "*3\r\n$3\r\nSET\r\n$16\r\nkey:%012llu\r\n$%d\r\n%s\r\n",
                              key, value_bytes, value);
    }
    if (wait_replicas) length += sprintf(out + length, "WAIT %d 0\r\n", wait_replicas);
    one->waiting = pipeline + (wait_replicas > 0);
    one->sent_ns = due_ns;
    for (size_t at = 0; at < length;) {
        ssize_t n = send(one->fd, out + at, length - at, MSG_NOSIGNAL);
        if (n <= 0) return lose(number, "send");
        at += n;
    }
}

/* Counts the replies in what arrived; only +, -, : and $ can come. */
static void take(struct connection *one, const char *data, ssize_t length) {
    for (ssize_t at = 0; at < length;) {
        if (one->skip > 0) {
            int64_t some = one->skip < length - at ? one->skip : length - at;
            one->skip -= some, at += some;
            if (one->skip == 0) one->waiting--;
            continue;
        }
        const char *end = memchr(data + at, '\n', length - at);
        int some = (end ? end + 1 - data : length) - at;
        if (one->filled + some >= (int)sizeof one->line) some = sizeof one->line - 1 - one->filled;
        memcpy(one->line + one->filled, data + at, some);
        one->filled += some, at += some;
        if (one->line[one->filled - 1] != '\n' && one->filled < (int)sizeof one->line - 1) continue;
        one->line[one->filled] = 0;
        one->filled = 0;
        if (one->line[0] == '-') {
            count_error(one->line);
            if (!goes_on) exit(1);
        }
        if (one->line[0] == '$' && one->line[1] != '-') one->skip = atoll(one->line + 1) + 2;
        else one->waiting--;
    }
}

static void receive(int number) {
    static char data[REPLY_BYTES_MAX];
    struct connection *one = &all[number];
    ssize_t n = recv(one->fd, data, sizeof data, 0);
    if (n == 0) errno = ECONNRESET;
    if (n <= 0) return lose(number, "recv");
    take(one, data, n);
    if (one->waiting) return;
    int64_t took = now_ns() - one->sent_ns;
    buckets[bucket(took / 1000)] += pipeline;
    commands += pipeline;
    if (took > longest_ns) longest_ns = took;
    idle[idles++] = number;
}

static void run(double seconds, double rate) {
    int64_t start = now_ns(), end = start + seconds * 1e9, gap = rate > 0 ? pipeline * 1e9 / rate : 0, due = start;
    struct epoll_event events[256];
    for (int64_t now = start; now < end && !stopped; now = now_ns()) {
        while (idles && (!gap || due <= now)) {
            send_some(idle[--idles], gap ? due : now_ns());
            due += gap;
        }
        int64_t wait = gap && idles && due - now < 100000000 ? due - now : 100000000;
        struct timespec timeout = {0, wait > 0 ? wait : 0};
        int n = epoll_pwait2(poller, events, 256, &timeout, NULL);
        if (n < 0 && errno != EINTR) die("epoll_pwait2");
        for (int at = 0; at < n; at++) receive(events[at].data.u32);
    }
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    double took = (now_ns() - start) / 1e9;
    double cpu = used.ru_utime.tv_sec + used.ru_stime.tv_sec + (used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
    printf("%llu %.0f %.0f %.0f %.0f %.0f %.2f %llu\n", (unsigned long long)commands, commands / took, percentile(0.5),
           percentile(0.99), percentile(0.999), longest_ns / 1e3, cpu / took,
           (unsigned long long)errors);
}

static void read_keys(struct place *place, const char *path) {
    FILE *file = fopen(path, "r");
    unsigned long long key;
    if (!file) die(path);
    while (fscanf(file, "%llu", &key) == 1) {
        if ((place->count & (place->count - 1)) == 0)
            place->keys = realloc(place->keys, sizeof *place->keys * (place->count ? 2 * place->count : 1));
        place->keys[place->count++] = key;
    }
    fclose(file);
    if (place->count == 0) die(path);
}

static void read_places(char *words) {
    for (char *word = strtok(words, ","); word && place_count < PLACES_MAX; word = strtok(NULL, ",")) {
        struct place *place = &places[place_count++];
        char *path = strchr(word, '@');
        place->port = atoi(word);
        if (path) read_keys(place, path + 1);
    }
}

static int usage(void) {
    fprintf(stderr, "load [-e] [-w REPLICAS] PLACES CONNECTIONS PIPELINE GET_PERCENT KEYS VALUE_BYTES SECONDS RATE\n");
    return 2;
}

int main(int count, char **words) {
    for (int option; (option = getopt(count, words, "ew:")) != -1;) {
        if (option == 'e') goes_on = 1;
        else if (option == 'w') wait_replicas = atoi(optarg);
        else return usage();
    }
    words += optind;
    if (count - optind != 8) return usage();
    int connections = atoi(words[1]);
    read_places(words[0]);
    pipeline = atoi(words[2]), get_percent = atoi(words[3]), keys = atoll(words[4]), value_bytes = atoi(words[5]);
    if (connections < 1 || connections > CONNECTIONS_MAX || place_count < 1 || pipeline < 1 || keys < 1) return usage();
    value = malloc(value_bytes + 1), out = malloc((size_t)(pipeline + 1) * (value_bytes + 128));
    memset(value, 'v', value_bytes);
    value[value_bytes] = 0;
    signal(SIGTERM, stop);
    poller = epoll_create1(0);
    for (int number = 0; number < connections; number++) {
        all[number].place = number % place_count;
        open_connection(number);
    }
    run(atof(words[6]), atof(words[7]));
    return 0;
}
