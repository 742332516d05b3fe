"""How good a restored picture is, by the papers' own protocols; networks on whole benchmarks and on any photograph."""
