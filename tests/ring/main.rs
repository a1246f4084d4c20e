//! What every ring keeps, checked on each of them: the simulated one without and with harmless
//! faults, by completion and by readiness, and `io_uring` and `epoll` over TCP and Unix sockets,
//! the former with receive buffers used up whole and piece by piece. Then the simulated ring's own
//! business: the rules that it checks, and that its faults act.

mod contract;
mod driver;
mod env;
mod rules;
mod swarm;

use env::{RealEnv, SimEnv};
use ringwire::ring::{
    Epoll, Uring,
    sim::{Knob, Knobs},
};

/// The contract, clause by clause, for one kind of ring.
macro_rules! contract {
    ($($ring:ident: $env:expr;)*) => {
        $(mod $ring {
            use super::*;
            contract!(@clauses with_others, $env;
                accepts_until_cancelled
                announces_bytes_that_are_received_at_once
                announces_the_end_and_can_be_cancelled
                bytes_arrive_in_order_and_stay_put_while_they_are_leased
                cancelling_a_receive_loses_no_bytes
                cancelling_finds_its_target_or_says_so
                closing_is_seen_by_the_peer
                connects_or_is_refused
                ends_a_stream_after_its_last_byte_and_still_sends
                hastened_sends_end_a_wait
                more_operations_than_entries_fit_in_a_turn
                receive_memory_waits_for_no_reader
                releases_a_socket_without_closing_it
                reset_connections_fail
                running_out_of_buffers_loses_no_bytes
                says_whether_a_receive_at_once_has_drained_the_socket
                sends_many_pieces_in_order
                sends_much_to_a_slow_reader
                sends_what_it_received_from_where_it_lies
                shutting_down_ends_what_is_in_flight
                ticks_are_never_early
                tells_what_is_unread_and_what_is_not_taken
                tokens_can_be_used_again_at_once
                unawaited_sends_end_no_wait
                unawaited_sends_wait_for_no_reader
                waits_no_longer_than_told
                wakes_from_another_thread
            );
            contract!(@clauses alone, $env; dropping_a_ring_leaves_nothing_behind);
        })*
    };
    (@clauses $company:ident, $env:expr; $($clause:ident)*) => {
        $(#[test]
        fn $clause() {
            let _guard = env::$company();
            contract::$clause($env);
        })*
    };
}

fn by_completion() -> Knobs {
    Knobs::benign().with(Knob::Readiness, 0)
}

contract! {
    sim: SimEnv::new(1, Knobs::none());
    sim_incremental: SimEnv::new(2, Knobs::none().with(Knob::IncrementalBuffers, 1000));
    sim_benign: SimEnv::new(3, by_completion());
    sim_benign_incremental: SimEnv::new(4, by_completion().with(Knob::IncrementalBuffers, 1000));
    sim_readiness: SimEnv::new(5, Knobs::none().with(Knob::Readiness, 1000));
    sim_benign_readiness: SimEnv::new(6, Knobs::benign().with(Knob::Readiness, 1000));
    uring_tcp: RealEnv::<Uring>::tcp(false);
    uring_tcp_incremental: RealEnv::<Uring>::tcp(true);
    uring_tcp_loud: RealEnv::<Uring>::tcp(true).loud();
    uring_tcp_busy: RealEnv::<Uring>::tcp(true).busy();
    uring_unix: RealEnv::<Uring>::unix(false);
    uring_unix_incremental: RealEnv::<Uring>::unix(true);
    epoll_tcp: RealEnv::<Epoll>::tcp(true);
    epoll_tcp_busy: RealEnv::<Epoll>::tcp(true).busy();
    epoll_unix: RealEnv::<Epoll>::unix(true);
}
