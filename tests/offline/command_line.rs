//! The tools as they are typed, on real directories: exit codes, and what they leave alone.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use marline::disk::real::RealDisk;
use marline::offline::{check, restore, verify};

use crate::world::{ring, world};

/// A directory of a test's own, which is removed again.
struct Home(PathBuf);

impl Home {
    fn new(name: &str) -> Home {
        let path = std::env::temp_dir().join(format!("marline-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Home(path)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn strings(args: &[&str]) -> Vec<String> {
    args.iter().map(|&arg| arg.to_owned()).collect()
}

fn checked(args: &[&str]) -> i32 {
    check::run(&strings(args))
}

fn restored(args: &[&str]) -> i32 {
    restore::run(&strings(args))
}

fn verified(args: &[&str]) -> i32 {
    verify::run(&strings(args))
}

/// Every file beneath a directory, but for the lock.
fn files(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if !path.ends_with("LOCK") {
            let content = fs::read(&path).unwrap();
            found.insert(path, content);
        }
    }
    found
}

#[test]
fn a_backup_becomes_a_directory() {
    let home = Home::new("restore");
    let (backup, data) = (home.path("backup"), home.path("deep/data"));
    fs::write(&backup, &world(None).backups.contents()["monday"]).unwrap();
    assert_eq!(verified(&["--verify", &backup]), 0);
    assert_eq!(restored(&[&backup, "--data", &data]), 0);
    assert_eq!(checked(&[&data]), 0);
    assert_eq!(checked(&["--verbose", &data]), 0);

    // It is not empty now.
    fs::create_dir(home.path("deep/data/backups")).unwrap();
    fs::copy(&backup, home.path("deep/data/backups/tuesday")).unwrap();
    fs::write(home.path("deep/data/notes.txt"), "mine").unwrap();
    fs::write(home.path("deep/data/wal-0000000000000001"), "rotten").unwrap();
    let before = files(&home.0);
    assert_eq!(restored(&[&backup, "--data", &data]), 1);
    assert!(files(&home.0) == before, "nothing is changed");
    assert_eq!(checked(&[&data]), 1);

    // A damaged backup touches nothing, whatever is forced.
    let cut = home.path("cut");
    let whole = fs::read(&backup).unwrap();
    fs::write(&cut, &whole[..whole.len() - 1]).unwrap();
    assert_eq!(verified(&["--verify", &cut]), 1);
    let before = files(&home.0);
    assert_eq!(restored(&[&cut, "--data", &data, "--force"]), 1);
    assert!(files(&home.0) == before, "nothing is changed");
    assert_eq!(restored(&[&cut, "--data", &home.path("new")]), 1);
    assert!(!Path::new(&home.path("new")).exists());

    assert_eq!(restored(&[&backup, "--data", &data, "--force"]), 0);
    assert_eq!(checked(&[&data]), 0);
    let after = files(&home.0.join("deep"));
    for name in ["notes.txt", "backups/tuesday"] {
        assert!(
            after.contains_key(&home.0.join("deep/data").join(name)),
            "{name} is left alone"
        );
    }
    assert_eq!(after.len(), 4 + 2, "{:?}", after.keys());
}

#[test]
fn a_directory_in_use_is_left_alone() {
    let home = Home::new("restore-in-use");
    let (backup, data) = (home.path("backup"), home.path("data"));
    fs::write(&backup, &world(None).backups.contents()["monday"]).unwrap();
    assert_eq!(restored(&[&backup, "--data", &data]), 0);
    let before = files(&home.0);
    let disk = RealDisk::open(Path::new(&data)).unwrap();
    let lock = disk.try_lock().unwrap();
    assert_eq!(checked(&[&data]), 1);
    assert_eq!(restored(&[&backup, "--data", &data, "--force"]), 1);
    assert!(files(&home.0) == before, "nothing is changed");
    drop(lock);
    assert_eq!(checked(&[&data]), 0);
}

#[test]
fn a_sealed_backup_needs_its_ring() {
    use std::os::unix::fs::PermissionsExt;

    let home = Home::new("restore-sealed");
    let (backup, keys) = (home.path("backup"), home.path("keys"));
    let sealed = world(Some(ring()));
    fs::write(&backup, &sealed.backups.contents()["monday"]).unwrap();
    assert_eq!(restored(&[&backup, "--data", &home.path("data")]), 1);
    assert_eq!(
        restored(&[&backup, "--data", &home.path("data"), "--seal-keys", &keys]),
        1
    );
    assert!(!Path::new(&home.path("data")).exists() && !Path::new(&keys).exists());
    assert_eq!(verified(&["--verify", &backup]), 0);
    assert_eq!(verified(&["--verify", &backup, "--seal-keys", &keys]), 1);

    // A plain one may be sealed with a ring that is made for it.
    let plain = home.path("plain");
    fs::write(&plain, &world(None).backups.contents()["monday"]).unwrap();
    let data = home.path("data");
    assert_eq!(
        restored(&[&plain, "--data", &data, "--seal-keys", &keys]),
        0
    );
    assert_eq!(checked(&[&data, "--seal-keys", &keys]), 0);
    assert_eq!(checked(&[&data]), 0);
    assert_eq!(verified(&["--verify", &backup, "--seal-keys", &keys]), 1);
    fs::set_permissions(&keys, fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(checked(&[&data, "--seal-keys", &keys]), 1);
}

#[test]
fn the_backup_is_not_among_what_is_removed() {
    let home = Home::new("restore-inside");
    let (data, inside) = (home.path("data"), home.path("data/wal-0000000000000001"));
    fs::create_dir(&data).unwrap();
    fs::write(&inside, &world(None).backups.contents()["monday"]).unwrap();
    assert_eq!(restored(&[&inside, "--data", &data, "--force"]), 1);
    assert!(Path::new(&inside).exists());
}

#[test]
fn slips_are_told() {
    assert_eq!(checked(&[]), 2);
    assert_eq!(checked(&["a", "b"]), 2);
    assert_eq!(checked(&["--force", "a"]), 2);
    assert_eq!(checked(&["/no/such/directory"]), 1);
    assert_eq!(restored(&["a"]), 2);
    assert_eq!(restored(&["--data", "a"]), 2);
    assert_eq!(
        restored(&["/no/such/file", "--data", "/no/such/directory"]),
        1
    );
    assert_eq!(verified(&["--verify"]), 2);
    assert_eq!(verified(&["--verify", "/no/such/file"]), 1);
    for tool in [checked, restored, verified] {
        assert_eq!(tool(&["--help"]), 0);
    }
}
