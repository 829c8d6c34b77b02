//! Names of datasets.

use std::path::{Component, Path};
use std::str;

use crate::cli::fuzz as cli;
use crate::storage::{Dataset, Id, PoolName};

/// Parses two lines: a pool's name and a name in the pool. An accepted name is unchanged, has only
/// safe characters, and is below the pool, also as a path.
pub(super) fn dataset_names(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let (pool, name) = text.split_once('\n').unwrap_or(("tank", text));
    let parsed = PoolName::parse(pool);
    // An empty name means no store.
    let is_taken = parsed.is_ok() || pool.is_empty();
    assert_eq!(cli::takes_pool(pool), is_taken, "settings take what the store does: {pool}");
    let Ok(pool) = parsed else { return };
    let datasets = [
        pool.dataset(name).inspect(|it| assert_eq!(it.relative(), name)),
        pool.full_dataset(name).inspect(|it| assert_eq!(it.as_str(), name)),
        pool.full_snapshot(name)
            .inspect(|it| assert_eq!(it.as_str(), name))
            .map(|it| it.dataset().clone()),
        pool.snapshot(name).map(|it| {
            assert_eq!(it.as_str(), format!("{pool}/{name}"));
            assert_eq!(format!("{}@{}", it.dataset(), it.name()), it.as_str());
            assert!(is_safe(it.name()) && !it.name().contains('/') && it.as_str().len() < 256);
            it.dataset().clone()
        }),
        Id::parse(name).and_then(|id| {
            let guest = pool.guest(&id)?;
            assert!(guest.is_below(&pool.guests()) && guest.last() == name);
            let disk = pool.guest_disk(&id, 7)?;
            assert!(disk.is_below(&guest) && disk.parent() == Some(guest));
            assert!(pool.image(&id)?.is_below(&pool.images()));
            Ok(disk)
        }),
    ];
    datasets.into_iter().flatten().for_each(|dataset| below(&pool, dataset));
}

/// Returns whether a name has no characters that are special in a shell, a command or a path.
fn is_safe(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:/".contains(&byte);
    name.bytes().all(allowed) && name.split('/').all(|part| !part.starts_with('-'))
}

fn below(pool: &PoolName, dataset: Dataset) {
    let full = dataset.as_str();
    assert!(full.len() < 256 && is_safe(full), "{full}");
    assert_eq!(full, format!("{pool}/{}", dataset.relative()));
    assert_eq!(pool.full_dataset(full).as_ref(), Ok(&dataset));
    let path = Path::new("/dev/zvol").join(full);
    let mut parts = path.components().skip(1);
    assert!(parts.all(|part| matches!(part, Component::Normal(_))), "{full}");
    assert_eq!(path.components().count(), full.split('/').count() + 3, "{full}");
    let above: Vec<Dataset> = std::iter::successors(dataset.parent(), Dataset::parent).collect();
    let parts = dataset.relative().split('/').count();
    assert_eq!(
        above.len(),
        parts - 1,
        "up to the pool or the dataset in its place, and no further"
    );
    assert!(above.iter().all(|it| dataset.is_below(it) && !it.is_below(&dataset)));
}
