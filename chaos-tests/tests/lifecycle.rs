//! The life of a cluster under real builds: volumes are lost, nodes join,
//! drain, are replaced, and all of them are killed at once. No build fails,
//! and at the end every node has everything that was ever acknowledged.
//!
//! The seed decides who goes; `WEIR_SEED=n` runs one again.

use std::{env, sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use weir_chaos_tests::{
    Cluster, Options, Trial,
    builds::{Builds, Done},
    buildstream::{BuildStream, Deps, Machine, Project, Release, Remotes, SourceKind},
    gate::Gate,
    seeded::Words,
    tree,
    workload::Workload,
};

/// A trial, with an unoptimised program on a busy machine. Bounds a hang.
const LIMIT: Duration = Duration::from_secs(900);

/// A build pushed, and pulled again: some seconds when nothing is in the way.
const BUILD_LIMIT: Duration = Duration::from_secs(120);

/// A cluster with clients at work.
struct Scene {
    trial: Trial,
    bst: BuildStream,
    cluster: Cluster,
    gate: Arc<Gate>,
    builds: Builds,
    load: Workload,
    words: Words,
    /// Nodes that are members, by index.
    members: Vec<usize>,
}

impl Scene {
    /// Three nodes, a loop of builds and a light load, all of them under way.
    fn start(trial: &Trial) -> Result<Scene> {
        let seed = seed();
        trial.step(format!("WEIR_SEED={seed}"));
        let bst = BuildStream::install(trial, Release::Two)?;
        let dir = trial.dir().join("project");
        let project = Project::write(trial, &dir, Release::Two, SourceKind::Local, seed)?;
        let cluster = Cluster::start(trial, Options::default())?;
        let gate = Gate::new(cluster.nodes().iter().map(|node| node.client.clone()));
        let scene = Scene {
            trial: trial.clone(),
            builds: Builds::start(trial, &bst, project, gate.clone())?,
            load: Workload::light(gate.clone(), seed)?,
            bst,
            cluster,
            gate,
            words: Words::new(seed),
            members: vec![0, 1, 2],
        };
        scene.builds.more(1, BUILD_LIMIT)?;
        scene.load.reach(5, BUILD_LIMIT)?;
        Ok(scene)
    }

    /// One of these nodes, as the seed has it.
    fn pick(&mut self, among: &[usize]) -> usize {
        among[self.words.below(among.len())]
    }

    fn client(&self, index: usize) -> String {
        self.cluster.node(index).client.clone()
    }

    /// A node goes from one instant to the next, and its volume with it.
    fn lose(&mut self, index: usize) -> Result<()> {
        self.gate.close(&self.client(index), BUILD_LIMIT)?;
        self.cluster.kill9(index)?;
        self.cluster.erase(index)
    }

    /// The others go on without a node that was lost.
    fn heal_without(&mut self, index: usize) -> Result<()> {
        self.cluster.remove_dead(index)?;
        self.members.retain(|member| *member != index);
        self.cluster.wait_settled(&self.members)
    }

    fn join(&mut self, name: &str, zone: &str) -> Result<()> {
        let index = self.cluster.add(name, zone)?;
        self.members.push(index);
        self.gate.open(&self.client(index));
        Ok(())
    }

    fn zone(&self, index: usize) -> String {
        self.cluster.node(index).zone.clone()
    }

    fn leave(&mut self, index: usize) -> Result<()> {
        self.cluster.drain(index)?;
        self.gate.close(&self.client(index), BUILD_LIMIT)?;
        self.cluster.remove(index)?;
        self.members.retain(|member| *member != index);
        Ok(())
    }

    /// Stops the clients; then every node has to have everything.
    fn finish(self) -> Result<()> {
        let Scene {
            trial,
            bst,
            cluster,
            builds,
            load,
            members,
            ..
        } = self;
        trial.step("stopping builds and load");
        let (project, done) = builds.finish()?;
        let ledger = load.finish()?;
        trial.step(format!(
            "{} builds and {} pushes acknowledged, {} pulls found nothing; every node is asked for all",
            done.trees.len(),
            ledger.len(),
            done.missed
        ));
        ensure!(ledger.len() >= 10, "hardly any load");
        cluster.wait_settled(&members)?;
        for index in &members {
            let node = cluster.node(*index);
            ledger.confirm(&node.client)?;
            pull_all(&trial, &bst, &project, &done, &node.name, &node.client)?;
        }
        Ok(())
    }
}

/// Pulls what was built, each variant of it, and compares it byte for byte.
fn pull_all(
    trial: &Trial,
    bst: &BuildStream,
    project: &Project,
    done: &Done,
    name: &str,
    url: &str,
) -> Result<()> {
    let name = format!("last-{name}");
    let machine = Machine::new(trial, bst, &name, &Remotes::artifacts(url))?;
    for (variant, expected) in done.trees.iter().enumerate() {
        project.change_to(variant as u64)?;
        machine.pull(project, "app.bst", Deps::None)?;
        let last = variant + 1 == done.trees.len();
        if variant == 0 || last {
            tree::same(expected, &machine.checkout(project, "app.bst")?)?;
        }
    }
    Ok(())
}

fn seed() -> u64 {
    let given = env::var("WEIR_SEED")
        .ok()
        .and_then(|text| text.parse().ok());
    given.unwrap_or_else(|| {
        let now = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
        // Short enough to type.
        u64::from(now.subsec_nanos()) ^ u64::from(std::process::id())
    })
}

/// One volume after another is lost, each without warning.
#[test]
fn volumes_are_lost_and_the_cluster_heals() {
    Trial::run("life-loss", LIMIT, |trial| {
        let mut scene = Scene::start(trial)?;
        let first = scene.pick(&[0, 1, 2]);
        scene.lose(first)?;
        scene.heal_without(first)?;
        scene.builds.more(1, BUILD_LIMIT)?;

        let zone = scene.zone(first);
        scene.join("fresh", &zone)?;
        scene.cluster.wait_settled(&scene.members.clone())?;

        let old: Vec<usize> = (0..3).filter(|index| *index != first).collect();
        let second = scene.pick(&old);
        scene.lose(second)?;
        scene.heal_without(second)?;
        scene.builds.more(1, BUILD_LIMIT)?;
        scene.finish()
    });
}

/// Three nodes become five and three again; one of these is replaced, and in
/// the end all of them are killed at once.
#[test]
fn nodes_join_drain_are_replaced_and_all_are_killed() {
    Trial::run("life-members", LIMIT, |trial| {
        let mut scene = Scene::start(trial)?;
        scene.join("four", "a")?;
        scene.join("five", "b")?;
        scene.cluster.wait_settled(&scene.members.clone())?;
        scene.builds.more(1, BUILD_LIMIT)?;

        for replicas in ["replicas=2", "replicas=3"] {
            let words = ["settings", "set", replicas];
            scene.cluster.ask(&words)?.insist()?;
            scene.cluster.wait_settled(&scene.members.clone())?;
        }

        for _ in 0..2 {
            let old: Vec<usize> = scene
                .members
                .iter()
                .copied()
                .filter(|index| *index < 3)
                .collect();
            let leaver = scene.pick(&old);
            scene.leave(leaver)?;
        }
        scene.cluster.wait_settled(&scene.members.clone())?;
        scene.builds.more(1, BUILD_LIMIT)?;

        let replaced = scene.pick(&scene.members.clone());
        let before = id(&scene.cluster, replaced)?;
        scene.lose(replaced)?;
        scene.cluster.join(replaced)?;
        scene.cluster.wait_settled(&scene.members.clone())?;
        ensure!(
            id(&scene.cluster, replaced)? != before,
            "the old id came back"
        );
        scene.gate.open(&scene.client(replaced));

        for index in scene.members.clone() {
            scene.gate.close(&scene.client(index), BUILD_LIMIT)?;
        }
        scene.cluster.kill9_everything()?;
        scene.cluster.start_all(&scene.members)?;
        scene.cluster.wait_settled(&scene.members.clone())?;
        for index in scene.members.clone() {
            scene.gate.open(&scene.client(index));
        }
        scene.builds.more(1, BUILD_LIMIT)?;
        scene.finish()
    });
}

/// The id of a node, as its data directory has it.
fn id(cluster: &Cluster, index: usize) -> Result<String> {
    let file = cluster.node(index).data().join("node.json");
    let text = std::fs::read(&file).with_context(|| file.display().to_string())?;
    let identity: serde_json::Value = serde_json::from_slice(&text)?;
    Ok(identity["node"].to_string())
}
