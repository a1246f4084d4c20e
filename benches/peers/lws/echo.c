/*
 * An echo on libwebsockets, on its own event loop: on that for libuv 64 bytes took 40 % more of the
 * processor. Prints its address, ends on SIGTERM.
 *
 * A message is gathered, since it may come in several pieces, and sent as one frame. Several are
 * written in one callback for as long as the socket takes them. With --sink binary messages are
 * counted instead, and a text is answered with the count.
 */
#include <libwebsockets.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What is received at once at most, and what each connection has a buffer for. */
#define RECV_BYTES (256 << 10)
#define MESSAGE_BYTES_MAX ((size_t)64 << 20)
/* With more than this to be sent to a peer, nothing more is received from it. */
#define QUEUE_BYTES_MAX ((size_t)16 << 20)

static bool sink;

struct message {
    struct message *next;
    size_t len, room;
    bool text;
    unsigned char bytes[]; /* LWS_PRE bytes for the library, then the payload */
};

struct session {
    struct message *gathered, *first, **last;
    size_t queued;
    bool paused;
    unsigned long messages;
};

static void drop_all(struct session *session) {
    free(session->gathered);
    while (session->first) {
        struct message *next = session->first->next;
        free(session->first);
        session->first = next;
    }
}

static void queue(struct lws *wsi, struct session *session, struct message *message) {
    session->queued += message->len;
    message->next = NULL;
    *session->last = message;
    session->last = &message->next;
    lws_callback_on_writable(wsi);
}

static int count(struct lws *wsi, struct session *session) {
    if (!lws_is_final_fragment(wsi))
        return 0;
    if (lws_frame_is_binary(wsi)) {
        session->messages++;
        return 0;
    }
    struct message *message = malloc(sizeof *message + LWS_PRE + 64);
    if (!message)
        return -1;
    char *text = (char *)message->bytes + LWS_PRE;
    message->text = true;
    message->len = (size_t)snprintf(text, 64, "{\"messages\":%lu}", session->messages);
    queue(wsi, session, message);
    return 0;
}

static int gather(struct lws *wsi, struct session *session, const void *bytes, size_t len) {
    struct message *message = session->gathered;
    size_t old = message ? message->len : 0, needed = old + len;
    if (needed > MESSAGE_BYTES_MAX)
        return -1;
    if (!message || message->room < needed) {
        size_t expected = needed + lws_remaining_packet_payload(wsi);
        size_t room = expected > MESSAGE_BYTES_MAX ? MESSAGE_BYTES_MAX : expected;
        message = realloc(message, sizeof *message + LWS_PRE + room);
        if (!message)
            return -1;
        message->room = room;
        if (!session->gathered)
            message->text = !lws_frame_is_binary(wsi);
        session->gathered = message;
    }
    memcpy(message->bytes + LWS_PRE + old, bytes, len);
    message->len = needed;
    if (!lws_is_final_fragment(wsi))
        return 0;
    session->gathered = NULL;
    queue(wsi, session, message);
    if (session->queued > QUEUE_BYTES_MAX && !session->paused) {
        session->paused = true;
        lws_rx_flow_control(wsi, 0);
    }
    return 0;
}

static int send_queued(struct lws *wsi, struct session *session) {
    while (session->first && !lws_send_pipe_choked(wsi)) {
        struct message *message = session->first;
        int protocol = message->text ? LWS_WRITE_TEXT : LWS_WRITE_BINARY;
        int written = lws_write(wsi, message->bytes + LWS_PRE, message->len, protocol);
        if (written < (int)message->len)
            return -1;
        session->queued -= message->len;
        session->first = message->next;
        if (!session->first)
            session->last = &session->first;
        free(message);
    }
    if (session->paused && session->queued < QUEUE_BYTES_MAX / 2) {
        session->paused = false;
        lws_rx_flow_control(wsi, 1);
    }
    if (session->first)
        lws_callback_on_writable(wsi);
    return 0;
}

static int echo(struct lws *wsi, enum lws_callback_reasons reason, void *user, void *in,
                size_t len) {
    struct session *session = user;
    switch (reason) {
    case LWS_CALLBACK_ESTABLISHED:
        memset(session, 0, sizeof *session);
        session->last = &session->first;
        return 0;
    case LWS_CALLBACK_RECEIVE:
        return sink ? count(wsi, session) : gather(wsi, session, in, len);
    case LWS_CALLBACK_SERVER_WRITEABLE:
        return send_queued(wsi, session);
    case LWS_CALLBACK_CLOSED:
        drop_all(session);
        return 0;
    default:
        return 0;
    }
}

int main(int argc, char **argv) {
    sink = argc > 1 && strcmp(argv[1], "--sink") == 0;
    static const struct lws_protocols protocols[] = {
        {.name = "echo",
         .callback = echo,
         .per_session_data_size = sizeof(struct session),
         .rx_buffer_size = RECV_BYTES},
        {.name = NULL},
    };
    struct lws_context_creation_info info;
    memset(&info, 0, sizeof info);
    info.options = LWS_SERVER_OPTION_EXPLICIT_VHOSTS | LWS_SERVER_OPTION_VALIDATE_UTF8;
    info.iface = "127.0.0.1";
    info.port = 0;
    info.protocols = protocols;
    info.pt_serv_buf_size = RECV_BYTES;
    lws_set_log_level(LLL_ERR, NULL);
    struct lws_context *context = lws_create_context(&info);
    struct lws_vhost *vhost = context ? lws_create_vhost(context, &info) : NULL;
    if (!vhost) {
        fputs("libwebsockets could not listen\n", stderr);
        return 1;
    }
    printf("ws://127.0.0.1:%d/\n", lws_get_vhost_listen_port(vhost));
    fflush(stdout);
    while (lws_service(context, 0) >= 0)
        ;
    return 0;
}
