//! A mount of type `cgroup`, which means something else on every layout.

use std::ffi::CString;

use super::Error;
use super::draft::{Draft, c_string, in_root, text};
use super::mounts::{Context, Entry};
use super::options::{RDONLY, RESTRICTED};
use crate::host::{CgroupLayout, Hierarchy};
use crate::step::{Attributes, Filesystem, InRoot, MountSource, MountStep, Namespace, Source, Step};

/// Where the host has its cgroups.
const MOUNT_POINT: &str = "/sys/fs/cgroup";

pub(super) fn compile(context: &Context<'_>, entry: &Entry<'_>, draft: &mut Draft) -> Result<(), Error> {
    match &context.input.host.cgroup {
        CgroupLayout::V2 => unified(context, entry, draft),
        CgroupLayout::V1(hierarchies) => v1(context, entry, hierarchies, draft),
    }
}

/// From inside a private cgroup namespace a new mount shows the container's own cgroup. From the host's it would show
/// what the existing mount shows, but cost milliseconds: that one is bound.
fn unified(context: &Context<'_>, entry: &Entry<'_>, draft: &mut Draft) -> Result<(), Error> {
    let step = if context.namespaces.own(Namespace::Cgroup) {
        entry.step(MountSource::Filesystem {
            filesystem: Filesystem {
                fstype: c"cgroup2".into(),
                source: c"cgroup".into(),
                options: entry.options.configuration(&entry.field, "cgroup2")?,
                attributes: entry.options.attributes(),
            },
            inherit_mode: false,
            copy_up: false,
        })
    } else {
        let source = draft.source(Source::Tree { path: c_string(&entry.field, MOUNT_POINT)?, recursive: false });
        let mut step = entry.step(MountSource::Opened { source, slave_first: context.slave_first });
        step.attributes = entry.options.bind_attributes();
        step
    };
    draft.step(Step::Mount(Box::new(step)));
    Ok(())
}

/// A tmpfs with a directory for each hierarchy, and the names of jointly mounted controllers as symlinks.
fn v1(context: &Context<'_>, entry: &Entry<'_>, hierarchies: &[Hierarchy], draft: &mut Draft) -> Result<(), Error> {
    let readonly = entry.options.set & RDONLY;
    let mut top = entry.step(MountSource::Filesystem {
        filesystem: Filesystem {
            fstype: c"tmpfs".into(),
            source: c"tmpfs".into(),
            options: vec![(c"mode".into(), Some(c"755".into()))],
            attributes: RESTRICTED,
        },
        inherit_mode: false,
        copy_up: false,
    });
    let slot = if readonly != 0 { Some(draft.slot()) } else { None };
    top.keep = slot;
    draft.step(Step::Mount(Box::new(top)));
    for hierarchy in hierarchies {
        let target = below(entry, &hierarchy.name)?;
        let step = if context.namespaces.own(Namespace::Cgroup) {
            fresh(entry, hierarchy, target)?
        } else {
            own_directory(context, entry, hierarchy, target, draft)?
        };
        draft.step(Step::Mount(Box::new(step)));
    }
    for hierarchy in hierarchies.iter().filter(|hierarchy| hierarchy.options.len() > 1) {
        for controller in hierarchy.options.iter().filter(|controller| **controller != hierarchy.name) {
            let target = c_string(&entry.field, &hierarchy.name)?;
            draft.step(Step::Symlink { target, path: below(entry, controller)? });
        }
    }
    draft.steps.extend(slot.map(Step::Readonly));
    Ok(())
}

fn below(entry: &Entry<'_>, name: &str) -> Result<InRoot, Error> {
    in_root(&entry.field, &format!("{}/{name}", entry.target.display()))
}

/// A new mount of the hierarchy, whose root is the container's cgroup inside its cgroup namespace.
fn fresh(entry: &Entry<'_>, hierarchy: &Hierarchy, target: InRoot) -> Result<MountStep, Error> {
    let options = hierarchy.options.iter().map(|option| {
        let (key, value) = option.split_once('=').map_or((option.as_str(), None), |(key, value)| (key, Some(value)));
        Ok((c_string(&entry.field, key)?, value.map(|value| c_string(&entry.field, value)).transpose()?))
    });
    let options = options.collect::<Result<Vec<(CString, Option<CString>)>, Error>>()?;
    let attributes = RESTRICTED | (entry.options.set & RDONLY);
    let source = MountSource::Filesystem {
        filesystem: Filesystem { fstype: c"cgroup".into(), source: c"cgroup".into(), options, attributes },
        inherit_mode: false,
        copy_up: false,
    };
    Ok(MountStep { target, keep: None, ..entry.step(source) })
}

/// The container's directory of the host's mount.
fn own_directory(
    context: &Context<'_>,
    entry: &Entry<'_>,
    hierarchy: &Hierarchy,
    target: InRoot,
    draft: &mut Draft,
) -> Result<MountStep, Error> {
    let own = context.input.cgroup.iter().find(|own| own.hierarchy == hierarchy.name);
    let own = own.ok_or_else(|| Error::conflict(&entry.field, "the container has no cgroup to show"))?;
    let path = c_string(&entry.field, text(&own.path))?;
    let source = draft.source(Source::Tree { path, recursive: false });
    let mut step = entry.step(MountSource::Opened { source, slave_first: context.slave_first });
    step.attributes = Attributes { set: RESTRICTED | (entry.options.set & RDONLY), clear: 0 };
    Ok(MountStep { target, keep: None, ..step })
}
