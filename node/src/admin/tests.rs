//! Protects: no operator's command loses the last copy of a blob unnoticed, and
//! every refusal has the right code and says what to do.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tonic::{Code, Status};
use weir_cluster::{
    ClusterId, Epoch, NodeId,
    blob::{Inventory, memory_store::MemoryStore},
    peer::{
        Report,
        faulty_peers::{Faults, FaultyPeers},
    },
    placement::{view, weaker::Weaker},
    raft::{Consensus, memory::MemoryConsensus},
    state::{ClusterState, Command, Member, MemberStatus, Settings},
};
use weir_proto::cluster::{JoinRequest, PlanRequest, RelabelRequest, RemoveRequest};

use super::{Admin, AdminParts, metrics, survey::Survey, weakness, weakness::Tracker};

/// Nodes n1, n2, … in zones of their own; n1 is the one that is asked.
struct Cluster {
    admin: Arc<Admin>,
    consensus: Arc<MemoryConsensus>,
    peers: FaultyPeers,
    report: Arc<Mutex<Report>>,
}

impl Cluster {
    fn of(count: u64, replicas: u32, write_quorum: u32) -> Self {
        let settings = Settings {
            replicas,
            write_quorum,
            ..Settings::default()
        };
        let members = (1..=count).map(|id| (NodeId(id), member(id)));
        let consensus = MemoryConsensus::founded(settings, members.collect()).unwrap();
        Self::on(consensus, count)
    }

    fn on(consensus: MemoryConsensus, count: u64) -> Self {
        let consensus = Arc::new(consensus);
        let store = |id| {
            (
                NodeId(id),
                Arc::new(MemoryStore::new()) as Arc<dyn Inventory>,
            )
        };
        let peers = FaultyPeers::new((1..=count).map(store).collect::<BTreeMap<_, _>>());
        let report = Arc::new(Mutex::new(Report {
            volume: "ok".into(),
            ..Report::default()
        }));
        let reporting = Arc::clone(&report);
        let admin = Admin::start(AdminParts {
            me: NodeId(1),
            cluster: ClusterId(1),
            view: view::watch(NodeId(1), consensus.state()),
            consensus: Arc::clone(&consensus) as _,
            peers: Arc::new(peers.clone()),
            report: Arc::new(move || reporting.lock().unwrap().clone()),
            scrub: Arc::new(|| {}),
        });
        Self {
            admin,
            consensus,
            peers,
            report,
        }
    }

    fn state(&self) -> Arc<ClusterState> {
        self.consensus.state().borrow().clone()
    }

    fn down(&self, id: u64) {
        let down = true;
        let faults = Faults {
            down,
            ..Faults::default()
        };
        self.peers.set(NodeId(id), faults);
    }

    async fn hand_off(&self, ids: &[u64], epoch: u64) {
        for id in ids {
            let (id, epoch) = (NodeId(*id), Epoch(epoch));
            let done = self.consensus.propose(Command::HandedOff { id, epoch });
            done.await.unwrap();
        }
    }

    async fn remove(&self, node: &str, dead: bool, force_lose: bool) -> Result<String, Status> {
        let node = node.into();
        let request = RemoveRequest {
            node,
            dead,
            force_lose,
        };
        self.admin.remove(&request).await
    }

    async fn weaker(&self) -> Vec<String> {
        self.admin.status().await.weaker
    }
}

fn member(id: u64) -> Member {
    Member {
        name: format!("n{id}"),
        zone: format!("zone-{id}"),
        host: format!("host-{id}"),
        weight: 1,
        peer_address: format!("127.0.0.1:{id}"),
        client_address: String::new(),
        admin_address: String::new(),
        status: MemberStatus::Active,
        boot: 0,
    }
}

#[track_caller]
fn refused<T: std::fmt::Debug>(outcome: Result<T, Status>, code: Code, advice: &str) {
    let status = outcome.expect_err(advice);
    assert_eq!(status.code(), code, "{status}");
    assert!(status.message().contains(advice), "{status}");
}

const NOT_NOW: Code = Code::FailedPrecondition;

#[tokio::test]
async fn a_member_leaves_only_when_nothing_can_be_lost_with_it() {
    let cluster = Cluster::of(4, 3, 2);
    let drain = "weir node drain n1 --wait";
    refused(cluster.remove("n1", false, false).await, NOT_NOW, drain);
    cluster.admin.drain("n1", false).await.unwrap();
    let again = cluster.admin.drain("n1", false).await.unwrap();
    assert!(again.contains("already"), "{again}");
    let unmoved = "still serves epoch 1";
    refused(cluster.remove("n1", false, false).await, NOT_NOW, unmoved);
    cluster.hand_off(&[2, 3, 4], 2).await;
    assert_eq!(cluster.state().epochs.len(), 1);
    let unsure = "has not compared";
    refused(cluster.remove("n1", false, false).await, NOT_NOW, unsure);
    {
        let mut report = cluster.report.lock().unwrap();
        report.repair.settled = true;
        report.repair.surplus_blobs = 3;
        report.repair.surplus_bytes = 2048;
    }
    let numbers = "3 blobs (2.0 KiB) are not confirmed elsewhere";
    refused(cluster.remove("n1", false, false).await, NOT_NOW, numbers);
    refused(cluster.remove("n1", false, false).await, NOT_NOW, drain);
    cluster.report.lock().unwrap().repair.surplus_blobs = 0;
    cluster.remove("n1", false, false).await.unwrap();
    assert!(cluster.state().removed.contains(&NodeId(1)));
    let gone = "no member is named \"n1\"; there are n2, n3, n4";
    refused(
        cluster.remove("n1", false, false).await,
        Code::NotFound,
        gone,
    );
    let by_id = cluster.remove("0000000000000001", false, false).await;
    refused(by_id, Code::NotFound, "was removed already");
}

#[tokio::test]
async fn who_says_that_blobs_may_be_lost_is_obeyed() {
    let cluster = Cluster::of(3, 3, 2);
    cluster.remove("n2", false, true).await.unwrap();
    assert!(!cluster.state().members.contains_key(&NodeId(2)));
}

#[tokio::test(start_paused = true)]
async fn a_dead_member_is_removed_unless_it_had_the_last_copies() {
    let cluster = Cluster::of(3, 2, 1);
    let alive = "n3 answers; drain it";
    refused(cluster.remove("n3", true, false).await, NOT_NOW, alive);
    cluster.down(3);
    let dead = "weir node remove --dead n3";
    refused(cluster.remove("n3", false, false).await, NOT_NOW, dead);
    // With two of three gone, some slots have no owner left.
    cluster.down(2);
    let lost = "slots would lose their last copies";
    refused(cluster.remove("n3", true, false).await, NOT_NOW, lost);
    assert_eq!(cluster.state().members.len(), 3);
    cluster.peers.set(NodeId(2), Faults::default());
    cluster.remove("n3", true, false).await.unwrap();
    cluster.down(2);
    cluster.remove("n2", true, true).await.unwrap();
    assert_eq!(cluster.state().members.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_node_takes_the_place_of_a_dead_one_and_never_of_a_living_one() {
    let cluster = Cluster::of(3, 3, 2);
    let request = || JoinRequest {
        name: "n3".into(),
        zone: "z".into(),
        host: "h".into(),
        peer_address: "127.0.0.1:9".into(),
        weight: 1,
        ..JoinRequest::default()
    };
    let taken = "the name \"n3\" is taken by a node that answers";
    let join = cluster.admin.join(request()).await;
    refused(join, Code::AlreadyExists, taken);
    cluster.down(3);
    let id = cluster.admin.join(request()).await.unwrap();
    let state = cluster.state();
    assert!(state.removed.contains(&NodeId(3)));
    assert_eq!(state.members[&id].name, "n3");
    assert_eq!(state.members[&id].status, MemberStatus::Joining);
    // Not where the dead one may have the only copies.
    let alone = Cluster::of(2, 1, 1);
    alone.down(2);
    let request = JoinRequest {
        name: "n2".into(),
        ..request()
    };
    let join = alone.admin.join(request).await;
    refused(join, NOT_NOW, "weir node remove --dead n2 --force-lose");
}

#[tokio::test(start_paused = true)]
async fn a_cluster_that_is_not_founded_is_waited_for() {
    let cluster = Cluster::on(MemoryConsensus::empty(NodeId(1)), 1);
    let join = cluster.admin.join(JoinRequest::default()).await;
    refused(join, Code::Unavailable, "just being founded");
    let founding = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let (cluster_id, settings) = (ClusterId(1), Settings::default());
        let found = Command::Found {
            cluster: cluster_id,
            settings,
        };
        cluster.consensus.propose(found).await.unwrap();
    };
    let request = JoinRequest {
        name: "n1".into(),
        zone: "z".into(),
        host: "h".into(),
        peer_address: "127.0.0.1:9".into(),
        weight: 1,
        ..JoinRequest::default()
    };
    let (joined, ()) = tokio::join!(cluster.admin.join(request), founding);
    joined.unwrap();
}

#[tokio::test]
async fn too_few_owners_are_not_drained_further() {
    let cluster = Cluster::of(3, 3, 2);
    let said = cluster.admin.drain("n3", false).await.unwrap();
    assert!(
        said.contains("2 are left to hold copies, 3 are wanted"),
        "{said}"
    );
    let refusal = cluster.admin.drain("n2", false).await;
    refused(refusal, NOT_NOW, "weir settings set write_quorum");
    cluster.admin.drain("n3", true).await.unwrap();
    let state = cluster.state();
    assert_eq!(state.members[&NodeId(3)].status, MemberStatus::Joining);
}

#[tokio::test]
async fn settings_and_labels_change_in_one_step_or_not_at_all() {
    let cluster = Cluster::of(3, 3, 2);
    let pairs = |pairs: &[&str]| pairs.iter().map(ToString::to_string).collect::<Vec<_>>();
    for (wrong, advice) in [
        (pairs(&["lease=1h", "zonk=1"]), "expected one of replicas"),
        (pairs(&["lease"]), "expected name=value"),
        (pairs(&["write_quorum=4"]), "expected 1 to replicas (3)"),
        (pairs(&[]), "name what to change"),
    ] {
        let outcome = cluster.admin.settle(&wrong).await;
        refused(outcome, Code::InvalidArgument, advice);
    }
    assert_eq!(cluster.state().settings.lease_seconds, 10_800);
    let both = pairs(&["lease=1h", "replicas=2"]);
    let said = cluster.admin.settle(&both).await.unwrap();
    assert!(
        said.starts_with("replicas: 3 -> 2, lease: 3h -> 1h"),
        "{said}"
    );
    assert_eq!(cluster.state().settings.lease_seconds, 3_600);
    let labels = |weight| RelabelRequest {
        node: "n2".into(),
        weight,
        ..RelabelRequest::default()
    };
    let nothing = cluster.admin.relabel(labels(None)).await;
    refused(nothing, Code::InvalidArgument, "--zone, --host or --weight");
    let absurd = cluster.admin.relabel(labels(Some(0))).await;
    refused(absurd, NOT_NOW, "weight is 0");
    cluster.admin.relabel(labels(Some(2))).await.unwrap();
    let row = &cluster.state().members[&NodeId(2)];
    assert_eq!((row.weight, &*row.zone), (2, "zone-2"));
}

#[tokio::test]
async fn without_a_quorum_changes_wait_and_looking_goes_on() {
    let cluster = Cluster::of(3, 3, 2);
    cluster.consensus.set_quorum(false);
    let drain = cluster.admin.drain("n2", false).await;
    refused(drain, Code::Unavailable, "try again");
    let weaker = cluster.weaker().await;
    assert!(weaker[0].contains("no leader is known"), "{weaker:?}");
}

#[tokio::test]
async fn a_plan_is_about_one_change_and_changes_nothing() {
    let cluster = Cluster::of(3, 3, 2);
    cluster.report.lock().unwrap().bytes = 16_384 << 10;
    let before = cluster.state();
    let join = PlanRequest {
        add_zone: "zone-4".into(),
        ..PlanRequest::default()
    };
    let plan = cluster.admin.plan(&join).await.unwrap();
    assert!(plan.moved > 10_000 && plan.moved * 10 < plan.ideal * 12);
    assert_eq!((plan.nodes.len(), plan.zones.len()), (4, 4));
    // n1 is full: the estimate is from its account, and it says no capacity.
    assert!(plan.moved_bytes > 0, "{plan:?}");
    assert!(plan.notes.iter().any(|note| note.contains("n1 would hold")));
    let both = PlanRequest {
        drain: "n1".into(),
        ..join
    };
    let outcome = cluster.admin.plan(&both).await;
    refused(outcome, Code::InvalidArgument, "one change at a time");
    let now = cluster.admin.plan(&PlanRequest::default()).await.unwrap();
    assert_eq!((now.moved, now.from_epoch), (0, 1));
    assert_eq!(cluster.state(), before);
}

#[tokio::test(start_paused = true)]
async fn a_member_that_is_down_or_out_of_use_is_weaker_and_under_replicated() {
    let cluster = Cluster::of(4, 3, 2);
    assert_eq!(cluster.weaker().await, Vec::<String>::new());
    cluster.report.lock().unwrap().volume = "cannot write: bad disk".into();
    let status = cluster.admin.status().await;
    let fenced = status.nodes[0].slots;
    assert_eq!(status.under_replicated, fenced);
    assert!(status.weaker[0].contains("the volume of n1 is not in use: cannot write"));
    assert!(status.promises[0].until.contains("n1 is started again"));
    cluster.down(2);
    let status = cluster.admin.status().await;
    assert!(status.under_replicated > fenced);
    assert!(status.weaker[0].contains("n2 down"), "{:?}", status.weaker);
    assert_eq!(status.promises[0].until, "n2 answers or is removed");
    assert_eq!(status.nodes[1].status, "active");
}

#[tokio::test]
async fn what_is_left_to_move_says_how_long_it_takes() {
    let cluster = Cluster::of(4, 3, 2);
    {
        let repair = &mut cluster.report.lock().unwrap().repair;
        repair.lacking_blobs = 7;
        repair.lacking_bytes = 3 << 30;
        repair.bytes_per_second = 100 << 20;
    }
    cluster.admin.drain("n4", false).await.unwrap();
    let status = cluster.admin.status().await;
    assert_eq!(status.eta_seconds, Some(31));
    assert_eq!(status.epochs[0].waiting, ["n1", "n2", "n3"]);
    let [moving, lacking] = &status.promises[..] else {
        panic!("{:?}", status.promises);
    };
    assert_eq!(
        moving.until,
        "blobs have moved: 3.0 GiB left, about 31s (not done: n1, n2, n3)"
    );
    assert_eq!(lacking.what, "n1 lacks 7 blobs that it owns");
}

#[tokio::test]
async fn metrics_are_numbers_with_bounded_labels() {
    let cluster = Cluster::of(3, 3, 2);
    cluster.down(3);
    let own = Report {
        volume: "ok".into(),
        blobs: 5,
        ..Report::default()
    };
    let survey = Survey::take(&cluster.admin.parts).await;
    let page = metrics::text(NodeId(1), &own, &survey);
    for line in [
        "weir_blobs 5",
        "weir_volume_ok 1",
        "weir_repair_lacking_bytes 0",
        "weir_epoch 1",
        "weir_leader 1",
        "weir_term 1",
        "weir_under_replicated_slots 16384",
        "weir_members{state=\"down\"} 1",
        "weir_promise_weaker{promise=\"P2\"} 1",
        "weir_promise_weaker{promise=\"P1\"} 0",
    ] {
        assert!(page.lines().any(|known| known == line), "{line} in\n{page}");
    }
    let values = page.lines().filter(|line| !line.starts_with('#'));
    for line in values {
        let (name, value) = line.rsplit_once(' ').unwrap();
        assert!(
            name.starts_with("weir_") && value.parse::<u64>().is_ok(),
            "{line}"
        );
        assert!(!name.contains("n3"), "{line}");
    }
}

#[test]
fn since_when_is_known_as_long_as_it_is_seen() {
    let entry = |what: &str| vec![Weaker::new("down:3", "P2", what, "it answers")];
    let (tracker, start) = (Tracker::default(), Instant::now());
    let at = |seconds| start + Duration::from_secs(seconds);
    let since = |seconds, weaker: &[Weaker]| tracker.since(at(seconds), weaker)[0].since_seconds;
    tracker.note(at(0), &entry("7 slots"));
    tracker.note(at(5), &entry("9 slots"));
    assert_eq!(since(6, &entry("9 slots")), 6);
    tracker.note(at(10), &[]);
    tracker.note(at(15), &entry("9 slots"));
    assert_eq!(since(16, &entry("9 slots")), 1);
    // Not noted yet: since now.
    let other = [Weaker::new("leader", "P3", "no leader", "one is there")];
    assert_eq!(since(20, &other), 0);
}

#[tokio::test]
async fn a_node_that_has_not_started_yet_makes_nothing_weaker() {
    let cluster = Cluster::of(3, 3, 2);
    let (id, member) = (NodeId(9), member(9));
    let joins = cluster.consensus.propose(Command::AddMember { id, member });
    joins.await.unwrap();
    let survey = Survey::take(&cluster.admin.parts).await;
    assert!(!survey.is_up(id));
    assert_eq!(weakness::weaker(&survey), []);
}
