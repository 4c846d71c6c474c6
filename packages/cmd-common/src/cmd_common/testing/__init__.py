"""What exchange packages and applications test themselves with; it ships with cmd-common.

``conformance`` is the suite that every exchange package runs: see ``conformance.Conformance``.
``simulation`` runs whole pipelines under a virtual clock, network and disk from one seed.
"""
