//! `confcast files`, killed at every step: the folder has the old files or the new ones.

use super::*;

/// Files of a generation; each has the number of both documents of a change set.
const FILES: usize = 40;

fn names_of_templates() -> Vec<String> {
    (0..FILES).map(|number| format!("f{number}.j2")).collect()
}

/// The number that all files have.
fn whole(folder: &Path) -> anyhow::Result<usize> {
    let target = fs::read_link(folder.join("current"))?;
    let generation = folder.join(&target);
    let files = names(&generation)?;
    ensure!(
        files.len() == FILES,
        "{} has {} files",
        target.display(),
        files.len()
    );
    let mut all = None;
    for file in files {
        let text = fs::read_to_string(generation.join(&file))?;
        let (left, right) = text.split_once('/').context("a pair")?;
        ensure!(left == right, "{file}: {text}");
        ensure!(
            all.is_none_or(|all| all == left.parse().ok()),
            "{file}: {text}, {all:?}"
        );
        all = Some(left.parse().ok());
    }
    all.flatten().context("a number")
}

/// Something that has happened to the folder when the process is killed.
#[derive(Debug, Clone, Copy)]
enum Point {
    /// So many files of the new generation are there.
    Written(usize),
    /// The check runs.
    Checking,
    /// The new generation has its name.
    Named,
    /// The link was swapped.
    Swapped,
}

#[tokio::test]
async fn a_process_that_is_killed_leaves_whole_files_and_the_next_one_goes_on() -> Outcome {
    let templates = names_of_templates();
    let text = "{{ FreeForm.left.n }}/{{ FreeForm.right.n }}";
    let templates: Vec<_> = templates.iter().map(|name| (name.as_str(), text)).collect();
    let home = Home::start(&templates).await?;
    for id in ["left", "right"] {
        home.put(id, &json!({"n": 0})).await?;
    }
    let out = home.path("out");
    let marker = home.path("checking");
    let check = format!("touch '{}'", marker.display());
    let options = ["--wait-min", "0s", "--check", &check, "--keep", "1"];
    let mut points = vec![Point::Checking, Point::Named, Point::Swapped];
    points.extend((0..FILES).step_by(8).map(Point::Written));
    let (ok, output) = run(home.command(&["--once"])?)?;
    ensure!(ok, "{output}");
    let mut number = 0;
    for round in 0..3 {
        for point in &points {
            let before = whole(&out)?;
            let target = fs::read_link(out.join("current"))?;
            fs::remove_file(&marker).ok();
            let mut files = home.follow(&options)?;
            number += 1;
            home.put_pair(number).await?;
            let deadline = Instant::now() + Duration::from_secs(20);
            while !is_reached(*point, &out, &marker, &target)? {
                ensure!(
                    Instant::now() < deadline,
                    "{point:?} was never reached\n{}",
                    files.tail()
                );
            }
            files.kill()?;
            let after =
                whole(&out).with_context(|| format!("round {round}, killed at {point:?}"))?;
            ensure!(
                after == before || after == number,
                "{point:?}: {before}, {after}, {number}"
            );
        }
    }
    // The next process makes it whole, and nothing is left of the others.
    let _files = home.follow(&options)?;
    eventually("the newest files", async || {
        let found = whole(&out)?;
        ensure!(found == number, "{found}");
        let left = names(&out.join(".generations"))?;
        ensure!(!left.iter().any(|name| is_unpublished(name)), "{left:?}");
        Ok(())
    })
    .await
}

/// What has no name of a generation.
fn is_unpublished(name: &str) -> bool {
    name.ends_with(".part") || name.ends_with(".check")
}

/// Reads a folder that another process changes: what vanishes meanwhile is not there.
fn is_reached(point: Point, out: &Path, marker: &Path, before: &Path) -> anyhow::Result<bool> {
    let generations = out.join(".generations");
    let current = fs::read_link(out.join("current"))?;
    // Too late for the others is a point as well.
    let is_swapped = current != before;
    let newest = names(&generations)?;
    Ok(is_swapped
        || match point {
            Point::Written(count) => {
                newest
                    .iter()
                    .filter(|name| name.ends_with(".part"))
                    .any(|name| {
                        let files = names(&generations.join(name));
                        files.is_ok_and(|files| files.len() >= count.max(1))
                    })
            }
            Point::Checking => marker.exists(),
            Point::Named => newest.iter().any(|name| {
                let current = before.file_name().and_then(|name| name.to_str());
                !is_unpublished(name) && current.is_some_and(|current| name.as_str() > current)
            }),
            Point::Swapped => false,
        })
}
