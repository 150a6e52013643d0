//! The reactor's contract: one set of scenarios, played on the kernel, in a calm simulation and in a rough one.
#![allow(unreachable_pub, clippy::unwrap_used, reason = "a test")]

mod clients;
mod closing;
mod flow;
mod harness;
mod slots;
mod time;

/// Plays each scenario on each stage.
macro_rules! on_every_stage {
    ($($room:ident: $($scenario:ident)*;)*) => {
        mod kernel { $(mod $room { $(#[test] fn $scenario() { crate::$room::$scenario::<crate::harness::Kernel>(); })* })* }
        mod sim { $(mod $room { $(#[test] fn $scenario() { crate::$room::$scenario::<crate::harness::Sim<false>>(); })* })* }
        mod rough { $(mod $room { $(#[test] fn $scenario() { crate::$room::$scenario::<crate::harness::Sim<true>>(); })* })* }
    };
}

on_every_stage! {
    closing:
        losing_flushes_everything_first
        end_of_stream_means_finish_flush_close
        half_closed_streams_go_on_in_the_other_direction
        lost_is_called_once_whatever_is_asked_for
        a_reset_is_a_loss
        a_peer_that_does_not_read_cannot_hold_a_close
        the_last_words_survive_unread_input
        a_short_read_does_not_hide_the_end_of_a_closed_peer
        stopping_flushes_and_ends
        stopping_does_not_wait_for_those_who_do_not_read
        writes_after_losing_are_dropped;
    flow:
        a_stream_keeps_its_order_both_ways
        producers_are_paused_and_resumed
        too_much_output_ends_the_connection
        paused_reading_loses_nothing
        a_loud_connection_does_not_silence_the_others
        a_turn_writes_once_and_after_the_commit
        a_large_buffer_changes_hands
        a_throttle_slows_its_connection;
    slots:
        a_stale_name_does_not_touch_the_next_tenant
        churn_leaves_nothing_behind
        out_of_place_events_are_ignored_in_one_batch
        messages_arrive_in_order_and_not_after_the_end
        whom_one_turn_does_not_accept_the_next_one_does
        refused_connections_hear_why
        a_limit_counts_per_address_and_forgets_the_gone;
    time:
        timers_keep_their_order_and_new_ones_wait
        cancelled_timers_do_not_fire
        silence_times_out_and_only_input_counts
        a_timeout_may_be_survived
        threads_bring_results_and_calls;
    clients:
        a_refused_attempt_is_reported_once
        attempts_are_repeated_as_the_factory_says
        reconnecting_comes_back_and_starts_anew_after_a_byte
        names_are_looked_up
        a_disconnected_connector_ends;
}
