//! BuildStream 1 against a cluster of three real nodes in three zones.

use std::time::Duration;

use weir_chaos_tests::{
    Cluster, Options, Trial,
    buildstream::{BuildStream, Deps, Machine, Project, Release, Remotes, SourceKind},
    tree,
};

/// A trial starts a cluster and runs `bst` some six times.
const LIMIT: Duration = Duration::from_secs(600);

/// What was pushed to one node is pulled from another.
#[test]
fn artifacts_pushed_to_one_node_are_pulled_from_another() {
    Trial::run("bst1", LIMIT, |trial| {
        let bst = BuildStream::install(trial, Release::One)?;
        trial.step("project of seed 1001");
        let dir = trial.dir().join("project");
        let project = Project::write(trial, &dir, Release::One, SourceKind::Local, 1001)?;
        let cluster = Cluster::start(trial, Options::default())?;
        let [one, two, three] = [0, 1, 2].map(|node| cluster.node(node).client.clone());

        let builder = Machine::new(trial, &bst, "builder", &Remotes::artifacts(&one))?;
        builder.build(&project, "app.bst")?.insist("Push", 3, 0)?;
        let built = builder.checkout(&project, "app.bst")?;

        let reader = Machine::new(trial, &bst, "reader", &Remotes::artifacts(&three))?;
        reader.pull(&project, "app.bst", Deps::All)?;
        tree::same(&built, &reader.checkout(&project, "app.bst")?)?;

        project.change()?;
        reader.build(&project, "src.bst")?.insist("Push", 1, 0)?;
        let changed = reader.checkout(&project, "src.bst")?;
        let third = Machine::new(trial, &bst, "third", &Remotes::artifacts(&two))?;
        third.pull(&project, "src.bst", Deps::None)?;
        tree::same(&changed, &third.checkout(&project, "src.bst")?)
    });
}
