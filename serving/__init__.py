"""More than one machine: Ray Data over folders and buckets, and a model that a server answers with."""
