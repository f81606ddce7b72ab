//! The rig itself: that faults which are ordered really happen, and that
//! nothing of a world is left behind. Runs on faults that do not happen would
//! pass for the wrong reason.

use std::{
    fs,
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::Path,
    process::Command,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use weir_chaos_tests::{
    Trial,
    process::{is_running, running_with},
    rig::{
        self, Backing, Events, Link, Room, VolumeSpec, World,
        faultdisk::{self, Access, Failure, Keep, Slow},
    },
    wait::until,
};

const LIMIT: Duration = Duration::from_secs(120);
const PORT: u16 = 4000;
const MS: Duration = Duration::from_millis(1);

/// Runs a body in a world with two rooms for nodes, or says why it cannot.
fn in_a_world(
    name: &'static str,
    body: impl FnOnce(&Trial, &mut World) -> Result<()> + Send + 'static,
) {
    if let Err(why) = rig::available() {
        let _ = writeln!(
            io::stderr(),
            "{name}: skipped, this machine has no rig: {why}"
        );
        return;
    }
    Trial::run(name, LIMIT, move |trial| {
        let events = Events::new(trial, &trial.dir().join("events.jsonl"))?;
        let mut world = World::new(trial, 42, events)?;
        world.add_room()?;
        world.add_room()?;
        body(trial, &mut world)
    });
}

/// Sends numbered datagrams from one room to another, one every `gap`, and
/// returns those that arrived, in their order, with the time that each took.
fn datagrams(
    world: &World,
    from: usize,
    to: usize,
    count: u32,
    gap: Duration,
) -> Result<Vec<(u32, Duration)>> {
    let address: SocketAddr = (world.address(to), PORT).into();
    let receiver = world.room(to).run(move || UdpSocket::bind(address))??;
    let sender = world
        .room(from)
        .run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))??;
    receiver.set_read_timeout(Some(Duration::from_millis(400)))?;
    let start = Instant::now();
    let sending = thread::spawn(move || -> io::Result<()> {
        for number in 0..count {
            let nanos = start.elapsed().as_nanos() as u64;
            let packet = [&number.to_le_bytes()[..], &nanos.to_le_bytes()].concat();
            sender.send_to(&packet, address)?;
            thread::sleep(gap);
        }
        Ok(())
    });
    let mut arrived = Vec::new();
    let mut packet = [0; 12];
    while receiver.recv(&mut packet).is_ok() {
        let (number, nanos) = packet.split_at(4);
        let sent = Duration::from_nanos(u64::from_le_bytes(nanos.try_into()?));
        let number = u32::from_le_bytes(number.try_into()?);
        arrived.push((number, start.elapsed().saturating_sub(sent)));
    }
    sending.join().expect("it does not panic")?;
    Ok(arrived)
}

/// How long it takes until `bytes` have gone from one room to another.
fn transfer(world: &World, from: usize, to: usize, bytes: usize) -> Result<Duration> {
    let address: SocketAddr = (world.address(to), PORT).into();
    let listener = world.room(to).run(move || TcpListener::bind(address))??;
    let mut sender = world
        .room(from)
        .run(move || TcpStream::connect(address))??;
    let (mut receiver, _) = listener.accept()?;
    let start = Instant::now();
    let sending = thread::spawn(move || sender.write_all(&vec![7; bytes]));
    let mut received = 0;
    let mut buffer = vec![0; 1 << 16];
    while received < bytes {
        let count = receiver.read(&mut buffer)?;
        ensure!(count > 0, "the stream ended after {received} bytes");
        received += count;
    }
    sending.join().expect("it does not panic")?;
    Ok(start.elapsed())
}

#[test]
fn the_switch_delays_each_direction_by_its_own_rule() {
    in_a_world("rig-delay", |_, world| {
        let plain = datagrams(world, 1, 2, 50, MS)?;
        ensure!(
            plain.len() == 50,
            "a wire without rules lost some: {plain:?}"
        );
        let slow = Link {
            delay: 50 * MS,
            jitter: 20 * MS,
            ..Link::default()
        };
        let layer = world.switch().lay("slow", [((1, 2), slow)]);
        for (_, took) in datagrams(world, 1, 2, 50, MS)? {
            ensure!(
                took >= 50 * MS,
                "a packet took {took:?} where 50 ms are due"
            );
        }
        let back = datagrams(world, 2, 1, 50, MS)?;
        ensure!(
            back.iter().any(|(_, took)| *took < 50 * MS),
            "the other direction is slow, too"
        );
        world.switch().lift(layer);
        let after = datagrams(world, 1, 2, 50, MS)?;
        ensure!(
            after.iter().any(|(_, took)| *took < 50 * MS),
            "it is not lifted"
        );
        Ok(())
    });
}

#[test]
fn the_switch_loses_and_doubles_the_share_it_is_told() {
    in_a_world("rig-loss", |_, world| {
        let link = Link {
            loss: 0.3,
            duplicate: 0.2,
            ..Link::default()
        };
        let _layer = world.switch().lay("bad", [((1, 2), link)]);
        let arrived = datagrams(world, 1, 2, 1000, Duration::from_micros(200))?;
        let mut numbers: Vec<u32> = arrived.iter().map(|(number, _)| *number).collect();
        numbers.sort_unstable();
        let all = numbers.len();
        numbers.dedup();
        let (different, doubled) = (numbers.len(), all - numbers.len());
        ensure!(
            (640..=760).contains(&different),
            "{different} of 1000 arrived"
        );
        ensure!((90..=190).contains(&doubled), "{doubled} arrived twice");
        let counts = world.switch().counts((1, 2));
        ensure!(counts.lost >= 240 && counts.doubled >= 90, "{counts:?}");
        Ok(())
    });
}

#[test]
fn the_switch_reorders_but_loses_nothing_by_it() {
    in_a_world("rig-reorder", |_, world| {
        let link = Link {
            reorder: 0.25,
            ..Link::default()
        };
        let _layer = world.switch().lay("mixed", [((1, 2), link)]);
        let arrived = datagrams(world, 1, 2, 500, Duration::from_micros(300))?;
        ensure!(arrived.len() == 500, "{} of 500 arrived", arrived.len());
        let backwards = arrived.windows(2).filter(|two| two[0].0 > two[1].0).count();
        ensure!(backwards >= 20, "only {backwards} came after a later one");
        Ok(())
    });
}

#[test]
fn a_cut_of_one_direction_leaves_the_other() {
    in_a_world("rig-one-way", |_, world| {
        let layer = world.switch().lay("one way", [((1, 2), Link::CUT)]);
        let there = datagrams(world, 1, 2, 100, MS)?;
        ensure!(there.is_empty(), "{} passed a cut wire", there.len());
        let back = datagrams(world, 2, 1, 100, MS)?;
        ensure!(back.len() == 100, "{} of 100 came back", back.len());
        // Clients are elsewhere.
        ensure!(datagrams(world, 0, 2, 10, MS)?.len() == 10);
        world.switch().lift(layer);
        ensure!(datagrams(world, 1, 2, 10, MS)?.len() == 10);
        Ok(())
    });
}

#[test]
fn the_switch_caps_the_rate() {
    in_a_world("rig-rate", |trial, world| {
        let free = transfer(world, 1, 2, 16 << 20)?;
        trial.step(format!("16 MiB in {free:?} without a cap"));
        let link = Link {
            rate: Some(8_000_000),
            ..Link::default()
        };
        let _layer = world.switch().lay("narrow", [((1, 2), link)]);
        let capped = transfer(world, 1, 2, 2 << 20)?;
        trial.step(format!("2 MiB in {capped:?} at 8 Mbit/s"));
        ensure!(
            capped > Duration::from_millis(1900),
            "2 MiB took {capped:?}"
        );
        ensure!(capped < Duration::from_secs(10), "2 MiB took {capped:?}");
        Ok(())
    });
}

#[test]
fn swapped_addresses_lead_to_the_other_room() {
    in_a_world("rig-addresses", |_, world| {
        let (one, two) = (world.address(1), world.address(2));
        let serve = |room: &Arc<Room>, name: &'static [u8]| -> Result<()> {
            let listener = room.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)))??;
            thread::spawn(move || {
                while let Ok((mut stream, _)) = listener.accept() {
                    let _ = stream.write_all(name);
                }
            });
            Ok(())
        };
        serve(world.room(1), b"one")?;
        serve(world.room(2), b"two")?;
        let ask = |world: &World, address| -> Result<String> {
            let _inside = world.enter()?;
            let mut said = String::new();
            TcpStream::connect((address, PORT))?.read_to_string(&mut said)?;
            Ok(said)
        };
        ensure!(ask(world, one)? == "one" && ask(world, two)? == "two");
        world.swap_addresses(1, 2)?;
        ensure!(ask(world, one)? == "two" && ask(world, two)? == "one");
        ensure!(world.address(1) == two);
        Ok(())
    });
}

/// Everything that a volume can be made to do, on one.
#[test]
fn a_volume_loses_what_was_not_synced_and_fills_and_rots() {
    in_a_world("rig-volume", |trial, world| {
        let spec = VolumeSpec {
            bytes: 32 << 20,
            inodes: 512,
            ..VolumeSpec::default()
        };
        let mut volume = world.volume("v", spec)?;
        let seen = volume.outside();
        ensure!(
            fs::read_dir(volume.path())?.next().is_none(),
            "the mount is seen outside of the world"
        );
        for round in 0..3 {
            let (kept, lost) = (format!("kept{round}"), format!("lost{round}"));
            fs::write(seen.join(&kept), "safe")?;
            fs::File::open(seen.join(&kept))?.sync_all()?;
            fs::File::open(&seen)?.sync_all()?;
            fs::write(seen.join(&lost), "in memory only")?;
            volume.cut()?;
            ensure!(fs::write(seen.join("late"), "x").is_err(), "it runs on");
            volume.unmount()?;
            volume.mount()?;
            ensure!(fs::read(seen.join(&kept))? == b"safe", "a cut lost {kept}");
            ensure!(!seen.join(&lost).exists(), "a cut kept {lost}");
        }
        volume.unmount()?;
        volume.check()?;
        volume.copy_to(&world.dir().join("old"))?;
        volume.mount()?;

        trial.step("full");
        volume.fill(0)?;
        let full = fs::write(seen.join("more"), vec![1; 1 << 20]).unwrap_err();
        ensure!(full.kind() == io::ErrorKind::StorageFull, "{full}");
        volume.relieve()?;
        fs::write(seen.join("more"), vec![1; 1 << 20])?;
        volume.fill_inodes()?;
        let full = fs::write(seen.join("another"), "").unwrap_err();
        ensure!(full.kind() == io::ErrorKind::StorageFull, "{full}");
        volume.relieve()?;
        volume.unmount()?;
        volume.grow(64 << 20)?;
        volume.mount()?;
        fs::write(seen.join("large"), vec![1; 40 << 20])?;

        trial.step("rotten");
        volume.flip(Path::new("more"), 1000, 2)?;
        let bytes = fs::read(seen.join("more"))?;
        ensure!(bytes[999..1003] == [1, 254, 254, 1]);

        trial.step("read-only");
        volume.read_only()?;
        let refused = fs::write(seen.join("more"), "x").unwrap_err();
        ensure!(
            refused.kind() == io::ErrorKind::ReadOnlyFilesystem,
            "{refused}"
        );
        volume.unmount()?;
        volume.mend()?;
        volume.mount()?;
        fs::write(seen.join("more"), "x")?;

        trial.step("gone under an open file");
        let open = fs::File::open(seen.join("more"))?;
        volume.vanish()?;
        ensure!(!seen.join("more").exists());
        drop(open);
        volume.unmount()?;

        trial.step("as it was before");
        volume.restore_from(&world.dir().join("old"))?;
        volume.mount()?;
        ensure!(seen.join("kept2").exists() && !seen.join("large").exists());
        Ok(())
    });
}

/// Writes a file and has it on disk, its name as well.
fn write_synced(dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let mut file = fs::File::create(dir.join(name))?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::File::open(dir)?.sync_all()
}

fn failing() -> VolumeSpec {
    VolumeSpec {
        bytes: 32 << 20,
        backing: Backing::FaultDisk,
        ..VolumeSpec::default()
    }
}

/// Everything that a disk can be ordered to do, below a mounted file system.
#[test]
fn a_faultdisk_keeps_what_was_synced_and_fails_as_ordered() {
    in_a_world("rig-faultdisk", |trial, world| {
        if let Err(why) = faultdisk::available() {
            trial.step(format!("skipped, no disk that fails: {why}"));
            return Ok(());
        }
        let spec = VolumeSpec {
            bytes: 32 << 20,
            inodes: 512,
            backing: Backing::FaultDisk,
        };
        let mut volume = world.volume("v", spec)?;
        let seen = volume.outside();
        let keeps = [Keep::Nothing, Keep::Some, Keep::Torn];
        let (mut cut_bytes, mut kept_bytes) = (0, 0);
        for (round, keep) in (0..9).zip(keeps.into_iter().cycle()) {
            let (kept, lost) = (format!("kept{round}"), format!("lost{round}"));
            write_synced(&seen, &kept, &[round; 100_000])?;
            // In place, so that nothing but the data has to reach the disk.
            let over = fs::File::options().write(true).open(seen.join(&kept))?;
            fs::write(seen.join(&lost), vec![round; 300_000])?;
            over.sync_data()?;
            // Begins to write it, and flushes nothing.
            volume.uncache(Path::new(&lost))?;
            until("writes that are not synced", LIMIT, || {
                Ok((volume.told()?.unsynced_bytes > 0).then_some(()))
            })?;
            let told = volume.cut_keeping(keep, round.into())?;
            trial.step(format!("{keep:?}: {told:?}"));
            cut_bytes += told.cut_bytes;
            kept_bytes += told.kept_bytes;
            ensure!(fs::write(seen.join("late"), "x").is_err(), "it runs on");
            drop(over);
            volume.unmount()?;
            volume.mount()?;
            let found = fs::read(seen.join(&kept))?;
            ensure!(found == [round; 100_000], "a cut lost {kept}");
            if keep == Keep::Nothing {
                ensure!(told.kept_bytes == 0 && !seen.join(&lost).exists());
            }
            volume.unmount()?;
            volume.check()?;
            volume.mount()?;
        }

        let parts = 0 < kept_bytes && kept_bytes < cut_bytes;
        ensure!(parts, "of {cut_bytes} bytes {kept_bytes} were kept");

        trial.step("unreadable in one place");
        let (bad, good) = (Path::new("kept0"), seen.join("kept1"));
        let places = volume.extents(bad, false)?;
        ensure!(!places.is_empty(), "the file is nowhere on the disk");
        let failures: Vec<Failure> = places
            .into_iter()
            .map(|range| Failure {
                access: Access::Read,
                range,
                times: None,
            })
            .collect();
        volume.fail(&failures)?;
        volume.uncache(bad)?;
        let refused = fs::read(seen.join(bad)).unwrap_err();
        ensure!(refused.raw_os_error() == Some(5), "{refused}");
        ensure!(volume.told()?.refused > 0);
        ensure!(fs::read(&good)?.len() == 100_000 && volume.is_well());
        volume.lift()?;
        ensure!(fs::read(seen.join(bad))? == [0; 100_000]);

        trial.step("rotten below the file system");
        volume.flip_on_disk(Path::new("kept1"), 70_000)?;
        let found = fs::read(&good)?;
        let odd: Vec<usize> = (0..found.len()).filter(|at| found[*at] != 1).collect();
        ensure!(odd == [70_000], "{odd:?}");

        trial.step("slow to sync");
        volume.slow(Slow {
            sync_ms: 200..201,
            ..Slow::default()
        })?;
        let start = Instant::now();
        write_synced(&seen, "slow", b"x")?;
        ensure!(start.elapsed() >= Duration::from_millis(200));
        volume.lift()?;

        trial.step("a sync fails once, and what it lost stays lost");
        write_synced(&seen, "over", &[1; 8192])?;
        let over = fs::File::options().write(true).open(seen.join("over"))?;
        volume.fail(&[Failure::everywhere(Access::Sync, Some(1))])?;
        std::os::unix::fs::FileExt::write_all_at(&over, &[2; 8192], 0)?;
        ensure!(over.sync_data().is_err(), "a failed flush is not told");
        ensure!(!volume.is_well());
        // As the kernel has it, this is fine; the disk knows better.
        let again = over.sync_data();
        trial.step(format!("the next sync: {again:?}"));
        drop(over);
        volume.lift()?;
        volume.unmount()?;
        volume.mend()?;
        volume.mount()?;
        ensure!(fs::read(seen.join("over"))? == [1; 8192]);

        trial.step("no write succeeds");
        volume.fail(&[Failure::everywhere(Access::Write, None)])?;
        ensure!(write_synced(&seen, "never", b"x").is_err());
        volume.lift()?;
        volume.unmount()?;
        volume.mend()?;
        volume.mount()?;
        Ok(write_synced(&seen, "again", b"x")?)
    });
}

/// What this process holds of a world: its threads' namespaces, processes,
/// loop devices and files.
#[test]
fn a_world_leaves_nothing_behind() {
    in_a_world("rig-nothing-left", |trial, outer| {
        let events = outer.events().clone();
        let mut world = World::new(trial, 1, events)?;
        let room = world.add_room()?;
        let volume = world.volume("v", VolumeSpec::default())?;
        let disk = faultdisk::available().map(|()| world.volume("d", failing()));
        let dir = world.dir().to_owned();
        let mut sleep = Command::new("sleep");
        sleep.arg("600");
        let log = trial.dir().join("sleep.log");
        let process = world.room(room).spawn(trial, "sleep", &sleep, &log)?;
        let pid = process.pid();
        let there = fs::read_link(format!("/proc/{pid}/ns/net"))?;
        ensure!(there != fs::read_link("/proc/self/ns/net")?);
        ensure!(!loops(&dir)?.is_empty(), "the volume is on no loop device");
        ensure!(disks(&dir).len() == usize::from(disk.is_ok()));
        if let Ok(group) = world.limit_cpu(pid, 10) {
            ensure!(fs::read_to_string(group.join("cgroup.procs"))?.contains(&pid.to_string()));
        }
        drop((process, volume, disk, world));
        ensure!(!is_running(pid), "a process is left");
        ensure!(disks(&dir).is_empty(), "a disk is left");
        ensure!(!dir.exists(), "{} is left", dir.display());
        until("loop devices to be free", LIMIT, || {
            Ok(loops(&dir)?.is_empty().then_some(()))
        })
    });
}

/// A run that is killed in the middle cannot clean up; its world does.
#[test]
fn a_world_whose_process_is_killed_leaves_nothing_behind() {
    const CHILD: &str = "WEIR_RIG_CHILD";
    if let Some(dir) = std::env::var_os(CHILD) {
        in_a_world("rig-killed-child", move |trial, world| {
            let _volume = world.volume("v", VolumeSpec::default())?;
            let _disk = faultdisk::available().map(|()| world.volume("d", failing()));
            let log = Path::new(&dir).join("sleep.log");
            let mut sleep = Command::new("sh");
            let script = "while :; do sleep 1; done";
            sleep.args(["-c", script]).arg(Path::new(&dir).join("mark"));
            let process = world.room(1).spawn(trial, "sleep", &sleep, &log)?;
            let _group = world.limit_cpu(process.pid(), 10);
            fs::write(
                Path::new(&dir).join("world"),
                world.dir().to_str().unwrap_or_default(),
            )?;
            loop {
                thread::park();
            }
        });
        return;
    }
    in_a_world("rig-killed", |trial, _| {
        let dir = trial.dir();
        let mut child = Command::new(std::env::current_exe()?)
            .args([
                "--exact",
                "a_world_whose_process_is_killed_leaves_nothing_behind",
            ])
            .env(CHILD, dir)
            .spawn()?;
        let world = until("the child's world", LIMIT, || {
            ensure!(child.try_wait()?.is_none(), "the child ended early");
            let text = fs::read_to_string(dir.join("world")).unwrap_or_default();
            Ok((!text.is_empty()).then_some(text))
        })?;
        let world = Path::new(&world);
        let mark = dir.join("mark");
        ensure!(running_with(&mark).len() == 1 && world.exists());
        child.kill()?;
        child.wait()?;
        until("the room's process to be gone", LIMIT, || {
            Ok(running_with(&mark).is_empty().then_some(()))
        })?;
        until("files and loop devices to be gone", LIMIT, || {
            Ok((!world.exists() && loops(world)?.is_empty()).then_some(()))
        })?;
        let groups = format!("weir-{}-", child.id());
        until("control groups to be gone", LIMIT, || {
            let left = fs::read_dir("/sys/fs/cgroup/cpu")
                .into_iter()
                .flatten()
                .flatten();
            let mut left =
                left.filter(|one| one.file_name().to_string_lossy().starts_with(&groups));
            Ok(left.next().is_none().then_some(()))
        })?;
        // The trial's own directory is the trial's to remove; it had no time.
        fs::remove_dir_all(world.parent().context("a world is in a directory")?)?;
        Ok(())
    });
}

/// Loop devices with a file below `dir` behind them.
/// Processes that are the disk of a volume in this folder, which they are in.
fn disks(dir: &Path) -> Vec<String> {
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    let works_there = |path: &Path| fs::read_link(path.join("cwd")).is_ok_and(|cwd| cwd == dir);
    all.filter(|entry| works_there(&entry.path()))
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

fn loops(dir: &Path) -> Result<Vec<String>> {
    let output = Command::new("losetup")
        .args(["-n", "-O", "BACK-FILE"])
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let ours = |line: &&str| line.contains(&*dir.to_string_lossy());
    Ok(text.lines().filter(ours).map(str::to_owned).collect())
}
