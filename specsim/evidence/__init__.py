"""Predictions compared with evidence: calibrations, measured and published points, engines' logs.

| module | what it does |
|---|---|
| `measurement` | the schema of measured files |
| `calibration` | timings of probes -> a System fitted to this machine |
| `comparison` | measured points compared with their predictions |
| `validation` | published rows compared with their predictions |
| `served` | logs, metrics and results of other tools -> counters, and one record of a run |
| `tables` | what was compared, in plain text |
| `counters`, `diagnosis` | the counters of an engine; what they mean |
"""
