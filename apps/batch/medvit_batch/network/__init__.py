"""DICOM network: peers, receiving, querying and sending."""
