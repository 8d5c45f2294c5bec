//! The simulator finds what it is there to find: each mistake, planted into the core, breaks the promise that it should.

use relatch_sim::{Fault, Law, Options, Telling, play};

/// In so many worlds it has to show.
const SEEDS: u64 = 400;

/// Plays worlds with this fault until one of these promises is broken.
fn is_caught(fault: Fault, by: &[Law]) {
    let mut others = Vec::new();
    for seed in 0..SEEDS {
        let played = play(Options { seed, fault: Some(fault), telling: Telling::Nothing });
        match played.breach {
            Some(breach) if by.contains(&breach.law) => return,
            Some(breach) => others.push(breach.law),
            None => {}
        }
    }
    panic!("{fault:?} breaks none of {by:?} in {SEEDS} worlds, but {others:?}");
}

#[test]
fn a_call_that_is_sent_again_after_it_may_have_run_is_caught() {
    is_caught(Fault::ResendsUnknown, &[Law::RunsOnce]);
}

#[test]
fn a_call_that_may_have_run_and_is_said_not_to_have_is_caught() {
    is_caught(Fault::ClaimsUnrun, &[Law::ClaimIsTrue]);
}

#[test]
fn an_answer_that_is_given_twice_is_caught() {
    is_caught(Fault::AnswersTwice, &[Law::AnsweredOnce]);
}

#[test]
fn a_forgotten_generation_check_is_caught() {
    is_caught(Fault::ForgetsGeneration, &[Law::LivingSessionsKept, Law::NoSessionLeaks]);
}

#[test]
fn an_answer_that_goes_to_another_request_is_caught() {
    is_caught(Fault::MixesUpAnswers, &[Law::RightAttempt]);
}

#[test]
fn stale_health_is_caught() {
    is_caught(Fault::BelievesOldEvidence, &[Law::FreshHealth]);
}

#[test]
fn a_call_that_goes_out_after_it_was_cancelled_is_caught() {
    is_caught(Fault::SendsTheCancelled, &[Law::NotForTheGone]);
}

#[test]
fn a_hold_without_an_end_is_caught() {
    is_caught(Fault::HoldsForEver, &[Law::WaitIsBounded]);
}

#[test]
fn a_new_session_that_does_not_know_what_the_old_one_was_told_is_caught() {
    is_caught(Fault::SkipsRebuilding, &[Law::Rebuilt]);
}

#[test]
fn a_session_that_is_guessed_to_be_gone_is_caught() {
    is_caught(Fault::GuessesGone, &[Law::RunsOnce, Law::ClaimIsTrue, Law::LivingSessionsKept]);
}

#[test]
fn sessions_that_are_opened_without_a_rest_are_caught() {
    is_caught(Fault::NeverRests, &[Law::NoStorm]);
}

#[test]
fn a_storm_of_handshakes_is_caught() {
    is_caught(Fault::IgnoresHandshakeCap, &[Law::NoStorm]);
}

#[test]
fn sessions_that_are_left_behind_are_caught() {
    is_caught(Fault::LeavesSessions, &[Law::NoSessionLeaks, Law::LivingSessionsKept]);
}

#[test]
fn a_change_that_the_client_is_not_told_of_is_caught() {
    is_caught(Fault::KeepsChangesSecret, &[Law::ChangesTold]);
}

#[test]
fn messages_that_arrive_in_another_order_are_caught() {
    is_caught(Fault::ShufflesNotes, &[Law::NotesOnce]);
}

#[test]
fn a_client_that_is_left_without_a_first_byte_is_caught() {
    is_caught(Fault::SaysNothingEarly, &[Law::FirstBytes]);
}

#[test]
fn a_request_that_goes_out_in_a_pause_is_caught() {
    is_caught(Fault::IgnoresPauses, &[Law::PauseKept]);
}

#[test]
fn a_living_session_that_is_given_up_for_one_that_is_not_to_be_had_is_caught() {
    is_caught(Fault::GivesUpTheOld, &[Law::LivingSessionsKept, Law::NoSessionLeaks]);
}

#[test]
fn a_call_that_is_answered_from_a_copy_is_caught() {
    is_caught(Fault::CopiesCalls, &[Law::CopiesHonest]);
}
