//! BuildStream 2 against a cluster of three real nodes in three zones.

use std::time::Duration;

use anyhow::Result;
use weir_chaos_tests::{
    Cluster, Options, Trial,
    buildstream::{
        BuildStream, Deps, Machine, Part, Project, Release, Remote, Remotes, SourceKind,
    },
    tree,
};

/// A trial starts a cluster and runs `bst` some ten times.
const LIMIT: Duration = Duration::from_secs(600);

fn project(trial: &Trial, sources: SourceKind, seed: u64) -> Result<Project> {
    trial.step(format!("project of seed {seed}"));
    Project::write(
        trial,
        &trial.dir().join("project"),
        Release::Two,
        sources,
        seed,
    )
}

/// What was pushed to one node is pulled from every other, while a node is
/// killed, while it is away and after it came back.
#[test]
fn artifacts_survive_a_node_that_is_killed() {
    Trial::run("bst2-kill", LIMIT, |trial| {
        let bst = BuildStream::install(trial, Release::Two)?;
        let project = project(trial, SourceKind::Local, 2001)?;
        let mut cluster = Cluster::start(trial, Options::default())?;
        let [one, two, three] = [0, 1, 2].map(|node| cluster.node(node).client.clone());

        let builder = Machine::new(trial, &bst, "builder", &Remotes::none())?;
        builder.build(&project, "app.bst")?;
        builder.point_at(&Remotes::artifacts(&one))?;
        builder.push(&project, "app.bst", Deps::All)?;
        let built = builder.checkout(&project, "app.bst")?;

        let check = |name: &str, node: &str, expected: &tree::Tree| {
            let machine = Machine::new(trial, &bst, name, &Remotes::artifacts(node))?;
            machine.pull(&project, "app.bst", Deps::All)?;
            tree::same(expected, &machine.checkout(&project, "app.bst")?)
        };
        check("reader-at-three", &three, &built)?;

        cluster.kill9(0)?;
        check("reader-at-two-one-is-dead", &two, &built)?;

        project.change()?;
        builder.point_at(&Remotes::artifacts(&two))?;
        // The unchanged base is there already, pushed to the node that is dead.
        builder.build(&project, "app.bst")?.insist("Push", 2, 1)?;
        let changed = builder.checkout(&project, "app.bst")?;
        assert!(
            tree::same(&built, &changed).is_err(),
            "the change changed nothing"
        );
        check("reader-at-three-one-is-dead", &three, &changed)?;

        cluster.start_again(0)?;
        check("reader-at-one-again", &one, &changed)
    });
}

/// Sources and artifacts live on the same server, and sources come back from
/// it when upstream is gone and the machine's own cache is empty.
#[test]
fn sources_come_from_the_cluster_when_upstream_is_gone() {
    Trial::run("bst2-sources", LIMIT, |trial| {
        let bst = BuildStream::install(trial, Release::Two)?;
        let project = project(trial, SourceKind::Archive, 2002)?;
        let cluster = Cluster::start(trial, Options::default())?;
        let [one, two, three] = [0, 1, 2].map(|node| cluster.node(node).client.clone());

        let builder = Machine::new(trial, &bst, "builder", &Remotes::everything(&one))?;
        builder.source_track(&project, "src.bst")?;
        builder.source_fetch(&project, "app.bst")?;
        builder.source_push(&project, "app.bst")?;
        builder.build(&project, "app.bst")?.insist("Push", 3, 0)?;
        let sources = builder.source_checkout(&project, "src.bst")?;
        let built = builder.checkout(&project, "app.bst")?;

        project.unpublish()?;
        builder.forget()?;
        builder.point_at(&Remotes::everything(&three))?;
        builder.source_fetch(&project, "app.bst")?;
        tree::same(&sources, &builder.source_checkout(&project, "src.bst")?)?;

        let reader = Machine::new(trial, &bst, "reader", &Remotes::everything(&two))?;
        reader.pull(&project, "app.bst", Deps::All)?;
        tree::same(&built, &reader.checkout(&project, "app.bst")?)
    });
}

/// One node serves as the index, another as the storage.
#[test]
fn index_and_storage_may_be_different_nodes() {
    Trial::run("bst2-split", LIMIT, |trial| {
        let bst = BuildStream::install(trial, Release::Two)?;
        let project = project(trial, SourceKind::Local, 2003)?;
        let cluster = Cluster::start(trial, Options::default())?;
        let split = |index: usize, storage: usize| {
            let part = |node: usize, part| Remote {
                url: cluster.node(node).client.clone(),
                part,
            };
            let servers = vec![part(index, Part::Index), part(storage, Part::Storage)];
            Remotes {
                artifacts: servers.clone(),
                sources: servers,
            }
        };

        let builder = Machine::new(trial, &bst, "builder", &split(0, 1))?;
        builder.build(&project, "app.bst")?.insist("Push", 3, 0)?;
        let built = builder.checkout(&project, "app.bst")?;

        let reader = Machine::new(trial, &bst, "reader", &split(2, 0))?;
        reader.pull(&project, "app.bst", Deps::All)?;
        tree::same(&built, &reader.checkout(&project, "app.bst")?)
    });
}
