//! The components, in the order in which they run. Adding one is one line here.

use ridgepoint_core::Case;
use ridgepoint_harness::{Scope, Suite};

/// All suites.
pub const SUITES: &[&dyn Suite] = &[
    &ridgepoint_memory::Memory,
    &ridgepoint_gemm::Gemm,
    &ridgepoint_attention::Attention,
    &ridgepoint_collectives::CollectivesSuite,
    &ridgepoint_launch::Launch,
];

/// A case with the suite that measures it.
#[derive(Clone)]
pub struct Listed {
    /// Who measures it.
    pub suite: &'static dyn Suite,
    /// The case.
    pub case: Case,
}

/// Every case of a scope.
#[must_use]
pub fn all(scope: &Scope) -> Vec<Listed> {
    SUITES.iter().flat_map(|suite| suite.cases(scope).into_iter().map(|case| Listed { suite: *suite, case })).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ridgepoint_harness::{Class, Profile};
    use std::collections::BTreeSet;

    #[test]
    fn every_listed_id_is_unique_and_parses_back_to_its_case() {
        for class in [Class::Cpu, Class::SoftwareGpu, Class::Gpu] {
            for profile in [Profile::Quick, Profile::Standard, Profile::Full] {
                let cases = all(&Scope::typical(class, profile));
                let ids: BTreeSet<_> = cases.iter().map(|l| l.case.id.as_str().to_owned()).collect();
                assert_eq!(ids.len(), cases.len(), "{class:?} {profile}: an id stands for two cases");
                for Listed { suite, case } in cases {
                    assert!(case.id.as_str().starts_with(suite.component().name()), "{}", case.id);
                    assert_eq!(suite.parse(case.id.as_str()).as_ref(), Some(&case), "{}", case.id);
                }
            }
        }
    }

    #[test]
    fn listed_ids_differ_in_what_criterion_keeps_of_them() {
        // It cuts the name of a case's folder there; two of one name would be told apart by the order in which they run.
        const KEPT: usize = 64;
        for class in [Class::Cpu, Class::SoftwareGpu, Class::Gpu] {
            let cases = all(&Scope::typical(class, Profile::Full));
            let kept: BTreeSet<String> = cases.iter().map(|l| l.case.id.as_str().chars().take(KEPT).collect()).collect();
            assert_eq!(kept.len(), cases.len(), "{class:?}");
        }
    }

    #[test]
    fn an_emulated_gpu_has_cases_in_common_with_the_cpu_it_runs_on() {
        let ids = |class| -> BTreeSet<String> {
            all(&Scope::typical(class, Profile::Quick)).iter().map(|l| l.case.id.as_str().to_owned()).collect()
        };
        let (cpu, emulated) = (ids(Class::Cpu), ids(Class::SoftwareGpu));
        for component in ["memory/", "gemm/", "attention/"] {
            assert!(cpu.intersection(&emulated).any(|id| id.starts_with(component)), "{component}");
        }
    }

    #[test]
    fn each_component_has_cases_for_each_class() {
        for class in [Class::Cpu, Class::SoftwareGpu, Class::Gpu] {
            for suite in SUITES {
                assert!(!suite.cases(&Scope::typical(class, Profile::Quick)).is_empty(), "{class:?} {}", suite.component());
            }
        }
    }
}
