//! cgroup statistics as containerd's two messages have them: the same fields under the same names.

use super::any;
use protobuf::well_known_types::any::Any;
use runtime_core::cgroup::Stats;

/// A message with the named fields copied, and others given.
macro_rules! message {
    ($message:ident from $from:expr, $($field:ident)* $(; $($name:ident: $value:expr),*)?) => {{
        let from = $from;
        $message { $($field: from.$field.clone(),)* $($($name: $value,)*)? ..$message::default() }
    }};
}

mod v1;
mod v2;

/// The bare names are what containerd and CRI look for; any other fails a whole listing.
pub fn metrics(stats: &Stats) -> Any {
    match stats {
        Stats::V1(metrics) => any("io.containerd.cgroups.v1.Metrics", &v1::metrics(metrics)),
        Stats::V2(metrics) => any("io.containerd.cgroups.v2.Metrics", &v2::metrics(metrics)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use containerd_shim_protos::{cgroups, cgroups_v2};
    use protobuf::Message;
    use runtime_core::cgroup::stats;

    #[test]
    fn v1_numbers_arrive_under_their_names() {
        let mut from = stats::v1::Metrics::default();
        from.cpu.usage.per_cpu = vec![3, 4];
        from.memory = Some(stats::v1::MemoryStat { total_rss: 7, ..Default::default() });
        let any = metrics(&Stats::V1(Box::new(from)));
        assert_eq!(any.type_url, "io.containerd.cgroups.v1.Metrics");
        let to = cgroups::metrics::Metrics::parse_from_bytes(&any.value).unwrap();
        assert_eq!((to.cpu.usage.per_cpu.as_slice(), to.memory.total_rss), ([3, 4].as_slice(), 7));
        assert!(to.pids.is_none());
    }

    #[test]
    fn v2_numbers_arrive_under_their_names() {
        let mut from = stats::v2::Metrics::default();
        from.memory.usage_limit = u64::MAX;
        from.memory_events = Some(stats::v2::MemoryEvents { oom_kill: 2, ..Default::default() });
        let any = metrics(&Stats::V2(Box::new(from)));
        assert_eq!(any.type_url, "io.containerd.cgroups.v2.Metrics");
        let to = cgroups_v2::metrics::Metrics::parse_from_bytes(&any.value).unwrap();
        assert_eq!((to.memory.usage_limit, to.memory_events.oom_kill), (u64::MAX, 2));
    }
}
