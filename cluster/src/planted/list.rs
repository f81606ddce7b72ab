//! What is planted, the test that catches it, and for some the simulation or a
//! scenario with real processes that catches it as well.

/// Whose tests catch a bug.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Suite {
    /// Unit tests of the cluster crate.
    Cluster,
    /// Unit tests of the node crate.
    Node,
    /// `cluster/tests/raft_cluster.rs`.
    Raft,
    /// `node/tests/api`.
    Api,
}

/// A scenario of `chaos` that catches a bug.
#[derive(Clone, Copy, Debug)]
pub struct Chaos {
    pub scenario: &'static str,
    pub seed: u64,
    /// The judge that finds it, as reports name it. Others may find something
    /// too; that does not count.
    pub judge: &'static str,
}

/// A bug and how it is caught.
#[derive(Debug)]
pub struct Planted {
    pub bug: Bug,
    pub name: &'static str,
    /// The number of the promise that it breaks.
    pub promise: u8,
    pub breaks: &'static str,
    pub suite: Suite,
    /// The test, as the suite calls it.
    pub test: &'static str,
    /// Of how many seeds of the simulation, from 0 on, at least one catches it.
    pub seeds: Option<u64>,
    pub chaos: Option<Chaos>,
}

macro_rules! bugs {
    ($(
        $name:ident: P $promise:literal, $breaks:literal, $suite:ident, $test:literal
        $(or one of $seeds:literal)?
        $(, $scenario:literal $seed:literal $judge:literal)?;
    )*) => {
        /// What can be planted.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Bug {
            $(#[doc = $breaks] $name,)*
        }

        /// All of them; none in a release.
        #[cfg(not(any(test, debug_assertions)))]
        pub const BUGS: &[Planted] = &[];

        /// All of them; none in a release.
        #[cfg(any(test, debug_assertions))]
        pub const BUGS: &[Planted] = &[
            $(Planted {
                bug: Bug::$name,
                name: stringify!($name),
                promise: $promise,
                breaks: $breaks,
                suite: Suite::$suite,
                test: $test,
                seeds: [$($seeds,)?].first().copied(),
                chaos: [$(Chaos {
                    scenario: $scenario,
                    seed: $seed,
                    judge: $judge,
                },)?].first().copied(),
            },)*
        ];
    };
}

bugs! {
    AckBelowQuorum: P 1, "an upload is answered one copy early", Cluster,
        "replication::tests::writes::a_quorum_is_enough_and_a_minority_is_not",
        "lost-alone" 1 "blobs";
    ZonesNotCounted: P 1, "copies in one zone count as a quorum of two", Cluster,
        "replication::tests::writes::two_copies_in_one_zone_are_no_quorum_of_two_zones";
    DataSyncSkipped: P 1, "small blobs are not synced before the answer", Node,
        "store::tests::crash::what_was_answered_survives_a_cut_right_after",
        "power-cut-all" 1 "durable";
    FileSyncSkipped: P 1, "large blobs are not synced before the answer", Node,
        "store::tests::crash::what_was_answered_survives_a_cut_right_after";
    FolderSyncSkipped: P 1, "the folder of a large blob is not synced before the answer", Node,
        "store::tests::crash::what_was_answered_survives_a_cut_right_after";
    ZonesIgnored: P 2, "owners are placed without regard to zones", Cluster,
        "placement::tests::owners_differ_in_zone_then_in_host",
        "zone-loss" 5 "copies";
    DroppedOnOneWord: P 2, "a surplus copy goes when one owner holds the blob", Cluster,
        "repair::tests::model::any_content_ends_up_on_its_owners_and_each_copy_moves_once";
    HandOverSkipped: P 2, "stand-ins and former owners offer nothing", Cluster,
        "repair::tests::changes::after_an_absence_stand_ins_give_back_what_they_held" or one of 5;
    LogSyncSkipped: P 3, "entries of the log are not synced", Cluster,
        "raft::log_store::tests::a_power_cut_anywhere_loses_nothing_that_was_told_safe" or one of 10;
    EntryToldBeforeSync: P 3, "entries of the log are told safe before they are written", Cluster,
        "raft::log_store::tests::a_power_cut_anywhere_loses_nothing_that_was_told_safe";
    VoteInMemory: P 3, "a vote is kept in memory alone", Cluster,
        "raft::log_store::tests::a_power_cut_anywhere_loses_nothing_that_was_told_safe" or one of 20;
    TornSnapshotTaken: P 3, "a snapshot is taken without reading it to the end", Cluster,
        "raft::state_machine::tests::a_snapshot_that_is_damaged_on_the_way_changes_nothing";
    SnapshotCapturesLater: P 3, "a snapshot under way mixes in later changes", Cluster,
        "raft::state_machine::tests::a_snapshot_holds_what_was_applied_when_it_began";
    LeaderResumed: P 3, "a leader goes on leading in its old term after a power cut", Cluster,
        "simulation::tests::power_cuts_of_all_nodes_lose_nothing" or one of 30;
    UrisOneByOne: P 3, "one step sets only the first URI of a push", Cluster,
        "state::tests::all_keys_of_a_push_get_one_revision_and_a_removal_needs_it",
        "calm" 1 "refs";
    NoBarrier: P 4, "linearizable reads are answered from what is applied here", Api,
        "asset::linearizable_reads_all_pass_a_barrier",
        "calm-linearizable" 1 "refs";
    BarrierSkipped: P 4, "a read barrier asks nobody", Raft,
        "without_a_majority_calls_fail_in_time_and_say_why" or one of 5;
    MissUnconfirmed: P 4, "a miss is answered without a read barrier", Api,
        "asset::available_reads_serve_hits_without_a_quorum_and_confirm_misses";
    DigestUnchecked: P 5, "bytes are stored without hashing them", Cluster,
        "replication::tests::writes::bytes_that_do_not_match_are_the_clients_error",
        "bad-clients" 1 "blobs";
    ChecksumUnchecked: P 5, "small blobs are read without their checksum", Node,
        "store::tests::ranges::one_flipped_bit_gives_no_bytes_of_its_part",
        "rot" 1 "durable";
    RangeUnchecked: P 5, "parts of large blobs are read without their checksum", Node,
        "store::tests::ranges::one_flipped_bit_gives_no_bytes_of_its_part",
        "rot-files" 1 "durable";
    DamagedCopyKept: P 5, "a damaged copy counts as present", Node,
        "store::tests::scrub::all_damage_is_found_and_the_rest_is_left_alone",
        "rot" 1 "copies";
    ScrubSkipsDamage: P 5, "scrub passes damaged records over", Node,
        "store::tests::scrub::all_damage_is_found_and_the_rest_is_left_alone";
    PresentAtOneOwner: P 6, "one owner's copy is enough to be present", Cluster,
        "replication::tests::presence::present_is_what_a_quorum_of_owners_has_at_one_message_each";
    StandInsNotAsked: P 6, "nobody is asked in place of an owner that is down", Cluster,
        "replication::tests::presence::stand_ins_answer_for_owners_that_are_away";
    LeasedEvicted: P 6, "leased blobs are evicted", Node,
        "store::tests::eviction::leased_blobs_stay_and_new_ones_are_refused";
    LeaseNotRenewed: P 6, "finding a blob does not renew its lease", Node,
        "store::tests::eviction::a_lease_carries_blobs_through_any_number_of_evictions";
    UsedBlobDropped: P 6, "a copy is dropped although it was used since it was listed", Node,
        "store::tests::keeps_what_every_store_keeps";
    IncompleteShown: P 7, "a ref is shown though a blob of its closure is absent", Api,
        "closures::a_ref_is_hidden_while_its_closure_has_a_hole";
    AbsentTargetTaken: P 7, "blobs that cannot be read count as stored again", Node,
        "api::restore::tests::what_can_be_read_is_stored_again_and_only_the_rest_is_absent";
    NewerPushWithdrawn: P 7, "a withdrawal takes away a newer push", Cluster,
        "state::tests::all_keys_of_a_push_get_one_revision_and_a_removal_needs_it";
    FormerOwnersForgotten: P 8, "reads do not ask former owners and stand-ins", Cluster,
        "replication::tests::reads::what_has_not_moved_yet_is_read_from_former_owners";
    NotFoundInDoubt: P 8, "NOT_FOUND is said while an owner is silent", Cluster,
        "replication::tests::reads::not_found_is_said_only_when_it_is_true" or one of 40;
    StaleEpochTaken: P 9, "a write of an old epoch counts after a new one began", Cluster,
        "replication::tests::writes::an_own_copy_that_comes_behind_a_new_epoch_does_not_count";
    StaleVerdictTaken: P 9, "an owner's word of an older epoch drops a copy", Cluster,
        "repair::tests::troubles::an_owners_word_of_an_older_epoch_drops_nothing";
    MarkWithMemberAway: P 9, "handoff ends though a member was not asked", Cluster,
        "repair::tests::troubles::a_draining_member_that_is_down_holds_the_mark_up";
    MarkWithSlotsOpen: P 9, "handoff ends though slots are not settled", Cluster,
        "repair::tests::model::the_mark_waits_for_every_member_and_every_slot";
    EpochRetiredEarly: P 9, "an epoch is retired on the mark of one owner", Cluster,
        "state::member_tests::a_node_leaves_only_after_every_owner_holds_what_it_held" or one of 5;
    RemovedWhileOwner: P 9, "a member that is still an owner may be removed", Cluster,
        "state::member_tests::a_node_leaves_only_after_every_owner_holds_what_it_held";
    RemovedIdReused: P 9, "an id that was removed may join again", Cluster,
        "state::member_tests::a_node_leaves_only_after_every_owner_holds_what_it_held";
    RemovedSenderHeard: P 9, "a removed node is still listened to", Cluster,
        "peer::identity::tests::a_removed_sender_is_refused_and_told_and_no_other",
        "removed-unaware" 1 "faults";
    EnteredAlone: P 9, "a node takes part before a majority has nothing against it", Cluster,
        "simulation::tests::an_older_copy_never_takes_part";
    OldCopyLetIn: P 9, "an older copy of a data directory takes part", Cluster,
        "state::member_tests::a_start_that_does_not_go_on_from_the_last_is_refused";
    BootForgotten: P 9, "a start is not written down before it is told", Node,
        "data_dir::boots::tests::each_start_is_known_to_the_next_and_to_no_copy_made_before_it";
    RemovedUndrained: P 9, "a member leaves with blobs that nobody else confirmed", Node,
        "admin::tests::a_member_leaves_only_when_nothing_can_be_lost_with_it";
    LastCopiesForgotten: P 9, "a dead member is removed with the last copies", Node,
        "admin::tests::a_dead_member_is_removed_unless_it_had_the_last_copies";
    DrainEndsEarly: P 9, "`drain --wait` ends while copies are unconfirmed", Node,
        "cli::node::drain::tests::a_drain_has_ended_only_when_nothing_can_be_lost";
    SyncRetried: P 10, "a failed sync of the store is tried again", Node,
        "store::tests::faults::the_first_failure_fences_the_volume_and_loses_nothing";
    LogSyncRetried: P 10, "a failed sync of the log is tried again", Cluster,
        "journal::tests::what_a_failed_sync_left_in_memory_is_written_again";
    FullDiskFences: P 10, "a full disk fences the volume for ever", Node,
        "store::tests::volume::a_volume_out_of_inodes_refuses_and_recovers";
    UploadLeftBehind: P 11, "an upload that was given up leaves its file", Node,
        "store::tests::faults::an_upload_that_is_dropped_leaves_no_file_and_no_room_taken",
        "bad-clients" 1 "leftovers";
    MemoryUnbounded: P 11, "calls take memory that there is not", Node,
        "api::guard::request::tests::a_call_waits_for_memory_and_is_refused_in_the_end";
    ResentAppliedTwice: P 12, "a proposal that is sent again is applied again", Cluster,
        "raft::state_machine::tests::a_proposal_that_is_sent_again_is_applied_once";
    DoubtIsRefusal: P 12, "a write that may have happened is told as refused", Cluster,
        "replication::shortfall::tests::full_everywhere_is_an_answer_and_all_else_is_a_doubt";
    LeaderUnfollowed: P 12, "a leader is named that no majority follows", Cluster,
        "raft::heard::tests::a_leader_counts_while_it_is_heard_and_a_majority_answers_it",
        "isolate" 1 "honesty";
}
