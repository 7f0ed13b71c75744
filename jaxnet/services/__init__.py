"""Services for all other folders, which import none of them: checks, pytrees, files, messages."""
