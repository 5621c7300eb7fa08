"""Who may do what: the RBAC evaluator, and the roles a cluster is born with."""
