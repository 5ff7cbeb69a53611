"""OpenAI's protocols for speech recognition: uploads and realtime transcription sessions."""
