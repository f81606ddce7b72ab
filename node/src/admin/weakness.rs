//! Which promises are weaker than configured, since when, and until what.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Instant,
};

use weir_cluster::{
    NodeId,
    placement::weaker::{MOVING, Weaker},
    state::MemberStatus,
};

use super::survey::{Survey, is_fenced};
use crate::status::{Weakness, bytes_text, duration_text};

/// Remembers since when each entry is there. What is not seen in one look is
/// forgotten.
#[derive(Default)]
pub(super) struct Tracker {
    // A std mutex: held for map operations only, never across an await.
    since: Mutex<BTreeMap<String, Instant>>,
}

impl Tracker {
    /// Takes note of what a look found.
    pub(super) fn note(&self, now: Instant, weaker: &[Weaker]) {
        let mut since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        let known = weaker.iter().map(|entry| {
            let first = since.get(&entry.key).copied().unwrap_or(now);
            (entry.key.clone(), first)
        });
        *since = known.collect();
    }

    /// The entries with since when each is there.
    pub(super) fn since(&self, now: Instant, weaker: &[Weaker]) -> Vec<Weakness> {
        let since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = |entry: &Weaker| {
            let first = since.get(&entry.key).copied().unwrap_or(now);
            Weakness {
                promise: entry.promises.into(),
                what: entry.what.clone(),
                since_seconds: now.saturating_duration_since(first).as_secs(),
                until: entry.until.clone(),
            }
        };
        weaker.iter().map(entry).collect()
    }
}

/// Everything that is weaker than configured at the moment of a look.
pub(super) fn weaker(survey: &Survey) -> Vec<Weaker> {
    let mut weaker = survey.view.weaker();
    if let Some(moving) = weaker.iter_mut().find(|entry| entry.key == MOVING) {
        moving.until = moved(survey);
    }
    if survey.roles.leader.is_none() {
        let what = "no leader is known: pushes and misses wait";
        let until = "a majority of voters answers";
        weaker.push(Weaker::new("leader", "P3, P4", what, until));
    }
    weaker.extend(survey.reports.keys().filter_map(|id| down(survey, *id)));
    weaker.extend(gone(survey));
    weaker.extend(survey.reports.keys().filter_map(|id| volume(survey, *id)));
    weaker.extend(survey.reports.keys().filter_map(|id| lacking(survey, *id)));
    weaker
}

/// When the blobs of an older epoch will have moved.
fn moved(survey: &Survey) -> String {
    let left = survey.left();
    let names = survey.waiting();
    let mut until = "blobs have moved".to_owned();
    if left.bytes > 0 {
        until += &format!(": {} left", bytes_text(left.bytes));
    }
    if let Some(seconds) = left.seconds() {
        until += &format!(", about {}", duration_text(seconds));
    }
    if !names.is_empty() {
        until += &format!(" (not done: {})", names.join(", "));
    }
    until
}

fn down(survey: &Survey, id: NodeId) -> Option<Weaker> {
    let why = survey.reports.get(&id)?.as_ref().err()?;
    let member = survey.members().get(&id)?;
    let owns_in = |placement: &weir_cluster::placement::Placement| placement.contains(id);
    let needed = survey.view.placements().iter().any(|p| owns_in(p));
    // One that never owned anything takes nothing away, as before its start.
    if !needed && member.status == MemberStatus::Joining {
        return None;
    }
    let name = &member.name;
    let slots = slots_of(survey, id);
    let what = format!("{slots} of 16384 slots miss an owner: {name} down ({why})");
    let until = format!("{name} answers or is removed");
    Some(Weaker::new(format!("down:{id}"), "P2", what, until))
}

/// Owners that are members no more: their place is taken in the next epoch.
fn gone(survey: &Survey) -> Vec<Weaker> {
    let Some(current) = survey.view.current() else {
        return Vec::new();
    };
    let gone = current
        .nodes()
        .filter(|id| !survey.members().contains_key(id));
    gone.map(|id| {
        let slots = current.slots_of(id);
        let what = format!("{slots} of 16384 slots miss an owner: node {id} was replaced");
        let until = "the node in its place has caught up";
        Weaker::new(format!("gone:{id}"), "P2", what, until)
    })
    .collect()
}

fn volume(survey: &Survey, id: NodeId) -> Option<Weaker> {
    let report = survey.report(id).filter(|report| report.volume != "ok")?;
    let (name, key) = (survey.name(id), format!("volume:{id}"));
    if !is_fenced(report) {
        let what = format!(
            "the volume of {name} is {}; uploads to it may be refused",
            report.volume
        );
        let until = "leases end, or it gets more room";
        return Some(Weaker::new(key, "P1", what, until));
    }
    let (volume, slots) = (&report.volume, slots_of(survey, id));
    let what = format!(
        "the volume of {name} is not in use: {volume}; {slots} of 16384 slots miss an owner"
    );
    let until = format!("{name} is started again on a sound volume, or is removed");
    Some(Weaker::new(key, "P1, P2", what, until))
}

fn lacking(survey: &Survey, id: NodeId) -> Option<Weaker> {
    let repair = &survey.report(id)?.repair;
    if repair.lacking_blobs == 0 {
        return None;
    }
    let name = survey.name(id);
    let (blobs, bytes) = (repair.lacking_blobs, repair.lacking_bytes);
    let what = format!("{name} lacks {blobs} blobs that it owns");
    let mut until = format!("it has fetched them: {} left", bytes_text(bytes));
    if let Some(seconds) = bytes.checked_div(repair.bytes_per_second) {
        until += &format!(", about {}", duration_text(seconds));
    }
    if !repair.trouble.is_empty() {
        until += &format!(" (trouble: {})", repair.trouble);
    }
    Some(Weaker::new(format!("lacking:{id}"), "P2", what, until))
}

/// Slots that a node owns in the current epoch.
fn slots_of(survey: &Survey, id: NodeId) -> usize {
    let current = survey.view.current();
    current.map_or(0, |current| current.slots_of(id))
}
