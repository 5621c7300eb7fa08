"""Inside one service process: binding, lifecycle, http, data, messaging, telemetry, resilience.

`main.serve` runs a service, `job.run_job` a job, `migrate.migrate` the migrations of a database. Importing
this package, or any module of it, starts nothing and keeps no state, so a warm parent may fork after it.
"""
