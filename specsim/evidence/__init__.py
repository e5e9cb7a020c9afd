"""Predictions held against evidence: calibrations, measured and published points, engines' logs.

| module | what it does |
|---|---|
| `measurement` | the schema of measured files |
| `calibration` | timings of probes -> the System of this machine |
| `comparison` | measured points next to their predictions |
| `validation` | published rows next to their predictions |
| `counters`, `diagnosis` | what an engine logs, and what it means |
"""
